"""Threads and processes of a rank: torch, kernels, reward workers."""

from __future__ import annotations

import logging
import os

import torch

from es_llm._core import set_kernel_threads
from es_llm.comm.launcher import is_launched
from es_llm.config import ESConfig
from es_llm.rewards.scoring import Limits
from es_llm.team import Team
from es_llm.trainer.assembly.cores import advice, idle_cores, usable_cores

logger = logging.getLogger(__name__)


def configure_threads(config: ESConfig, team: Team) -> None:
    """Set the number of torch's threads (they may decide bits, so they are part of the run's identity), and share the
    host's cores among the kernels of its ranks (kernels give the same bits with any number of threads)."""
    torch.set_num_threads(config.torch_threads)
    set_kernel_threads(config.kernel_threads or _share_of_cores(team))


def warn_of_idle_cores(config: ESConfig, team: Team, device: str) -> None:
    """Rank 0 logs one line if the model is in host memory and most cores of the host are idle."""
    if device != "cpu" or team.rank != 0:
        return
    cores, ranks, threads = usable_cores(is_launched()), team.local_size, config.torch_threads
    if (idle := idle_cores(cores, ranks, threads)) is not None:
        resumed = config.resume_from_checkpoint is not None
        logger.warning("%s: %s", idle, advice(cores, ranks, threads, size=team.size, resumed=resumed))


def reward_limits(config: ESConfig, team: Team) -> Limits:
    """Limits of reward workers. Their default number is this rank's share of the host's cores, at most 8."""
    workers = min(8, _share_of_cores(team)) if config.reward_workers is None else config.reward_workers
    return Limits(workers=workers, timeout_s=config.reward_timeout_s, memory_mb=config.reward_memory_mb)


def _share_of_cores(team: Team) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // team.local_size)
