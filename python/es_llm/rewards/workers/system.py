"""Processes as the operating system sees them: end them with their parent, limit their memory, list and kill them.

Uses `prctl` and `/proc` of Linux. On other systems the limits of memory and of the number of processes don't hold, and
of the processes that a worker started only those of its process group are killed.
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
    """Open the closed descriptors among 0 to 2 (the shell's `>&-` closes them) on `/dev/null`.

    Otherwise a socket or a journal that is opened later would get such a number, and printed text would be written to
    it. An open descriptor may be another library's file: see `has_standard_error`.
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
        if getattr(sys, name) is None:  # as Python sets it for a closed descriptor
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - it stays open


def has_standard_error() -> bool:
    """True if descriptor 2 is this program's standard error: it was open when Python started."""
    return sys.__stderr__ is not None


def end_with_parent(parent: int) -> None:
    """Have this process killed when its parent, the process `parent`, ends."""
    if LINUX:
        _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != parent:
            os._exit(1)


def outlive_parent() -> None:
    """Undo `end_with_parent`."""
    if LINUX:
        _prctl(_PR_SET_PDEATHSIG, 0)


def adopt_orphans() -> None:
    """Make this process the parent of its descendants whose own parents have ended."""
    if LINUX:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def limit_memory(megabytes: int) -> None:
    """Limit this process's address space to `megabytes` beyond its present size; 0: no limit. Children inherit it."""
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
    """Numbers of the child processes of a process, including those that have ended and weren't waited for."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found


def descendants(pid: int) -> Iterator[int]:
    """Numbers of the children of a process, their children, and so on."""
    parents, seen = [pid], {pid}
    while parents:
        for child in children(parents.pop()):
            if child not in seen:
                seen.add(child)
                parents.append(child)
                yield child


def kill_tree(pid: int) -> None:
    """Send SIGKILL to a process that leads a group, to its group, and to all descendants."""
    below = list(descendants(pid))
    kill_group(pid)
    for process in [pid, *below]:
        kill(process)


def kill_group(pid: int) -> None:
    """Send SIGKILL to all processes of a group."""
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def kill(pid: int) -> None:
    """Send SIGKILL to a process, if it exists."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def is_stopped(pid: int) -> bool:
    """True if a signal has stopped a process, which then waits for another signal to continue."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False


def reap(pid: int) -> None:
    """Remove a child that has ended from the system's table of processes."""
    with contextlib.suppress(OSError):
        os.waitpid(pid, os.WNOHANG)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
