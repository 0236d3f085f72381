"""What the system can do about processes: end them with their parent, limit their memory, count them, leave none.

Works through `prctl` and `/proc` on Linux. Elsewhere the limits of memory and of processes don't hold, and what a
worker starts is ended with its process group alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

LINUX: Final = sys.platform == "linux"

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36


def open_standard_descriptors() -> None:
    """Open descriptors 0 to 2 on nothing where they are closed, as `>&-` leaves them.

    A socket or a journal that is opened later would get these numbers, and everything that is printed.
    One that is open may be another library's file: see `has_standard_error`.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # what Python makes of a closed one
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - it stays open


def has_standard_error() -> bool:
    """Whether descriptor 2 is this program's standard error: Python began with it open."""
    return sys.__stderr__ is not None


def end_with_parent(parent: int) -> None:
    """This process gets SIGKILL when its parent, the process `parent`, ends."""
    if LINUX:
        _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:
            os._exit(1)


def outlive_parent() -> None:
    """Take `end_with_parent` back."""
    if LINUX:
        _prctl(_PR_SET_PDEATHSIG, 0)


def adopt_orphans() -> None:
    """Processes below this one whose parents end become its children."""
    if LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def limit_memory(megabytes: int) -> None:
    """This process may have so much address space beyond what it has now; 0: no limit. Each child may have as much."""
    if not LINUX or megabytes == 0:
        return
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (megabytes << 20)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def children(pid: int) -> list[int]:
    """Processes that a process started and that live or weren't waited for."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def descendants(pid: int) -> Iterator[int]:
    """Children, their children, and so on."""
    parents, seen = [pid], {pid}
    while parents:
        for child in children(parents.pop()):
            if child not in seen:
                seen.add(child)
                parents.append(child)
                yield child


def kill_tree(pid: int) -> None:
    """SIGKILL a process that leads a group, its group and everything below it."""
    below = list(descendants(pid))
    kill_group(pid)
    for process in [pid, *below]:
        kill(process)


def kill_group(pid: int) -> None:
    """SIGKILL all processes of a group."""
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def kill(pid: int) -> None:
    """SIGKILL a process, if it is there."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped a process, so that it doesn't go on by itself."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False


def bury(pid: int) -> None:
    """Take note of a child's end, if it has ended."""
    with contextlib.suppress(OSError):
        os.waitpid(pid, os.WNOHANG)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
