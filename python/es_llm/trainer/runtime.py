"""Process-wide settings that a run needs, made once per rank."""

from __future__ import annotations

import os

import torch

from es_llm._core import set_kernel_threads
from es_llm.config import ESConfig
from es_llm.team import Team


def configure_threads(config: ESConfig, team: Team) -> None:
    """Fix torch's threads (they may decide bits, so they are part of the run) and share the host's cores among
    the kernels of its ranks (those give the same bits with any number of threads)."""
    torch.set_num_threads(config.torch_threads)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    set_kernel_threads(config.kernel_threads or max(1, cores // team.local_size))
