"""Process-wide settings that a run needs, made once per rank."""

from __future__ import annotations

import logging
import os

import torch

from es_llm._core import set_kernel_threads
from es_llm.comm.launcher import is_launched
from es_llm.config import ESConfig
from es_llm.rewards.scoring import Limits
from es_llm.team import Team
from es_llm.trainer.assembly.cores import idle_cores, mending, usable_cores

logger = logging.getLogger(__name__)


def configure_threads(config: ESConfig, team: Team) -> None:
    """Fix torch's threads (they may decide bits, so they are part of the run) and share the host's cores among
    the kernels of its ranks (those give the same bits with any number of threads)."""
    torch.set_num_threads(config.torch_threads)
    set_kernel_threads(config.kernel_threads or _share_of_cores(team))


def warn_of_idle_cores(config: ESConfig, team: Team, device: str) -> None:
    """One line of the leading rank, if the run's model lives in host memory and most cores of the host do nothing."""
    if device != "cpu" or team.rank != 0:
        return
    cores, ranks, threads = usable_cores(is_launched()), team.local_size, config.torch_threads
    if (idle := idle_cores(cores, ranks, threads)) is not None:
        resumed = config.resume_from_checkpoint is not None
        logger.warning("%s: %s", idle, mending(cores, ranks, threads, size=team.size, resumed=resumed))


def reward_limits(config: ESConfig, team: Team) -> Limits:
    """Workers for rewards: as many as the option says, else this rank's share of the cores of its host, at most 8."""
    workers = min(8, _share_of_cores(team)) if config.reward_workers is None else config.reward_workers
    return Limits(workers=workers, timeout_s=config.reward_timeout_s, memory_mb=config.reward_memory_mb)


def _share_of_cores(team: Team) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // team.local_size)
