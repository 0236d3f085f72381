"""One run per directory: a lock that ends with the process that holds it.

The lock is the operating system's (`flock`), so a process that dies leaves none behind. The file names the holder.
Where the file system has no such locks the file alone decides: if its process has ended, it is stale.

A leader that takes over while the leader before hangs finds the lock held. It works without the lock, as the same job,
and asks for it again before each record (`hold`), so that no other job gets the lock when the hung process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from es_llm.errors import ConfigError

_NAME: Final = ".lock"


class DirectoryLock:
    """Keeps other jobs out of `directory` while this process lives."""

    def __init__(self, directory: Path, job: str, rank: int = 0) -> None:
        self._path = directory / _NAME
        self._held = False
        while not self._open(directory, job):
            pass
        self._write(job, rank)

    def hold(self) -> None:
        """Take the operating system's lock, if an earlier leader of this job had it and has released it."""
        if not self._held and not self._file.closed:
            with contextlib.suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._held = True

    def release(self) -> None:
        """Release the lock, for any job."""
        if not self._file.closed:
            with contextlib.suppress(OSError):
                holder = read_holder(self._path.parent)
                if _this_process().items() <= holder.items():  # else another leader took the run over
                    self._path.unlink()
            self._file.close()

    def leave(self) -> None:
        """Stop using the lock; another leader of this job uses it from now on."""
        self._file.close()

    def _open(self, directory: Path, job: str) -> bool:
        """Lock the file; False if its holder deleted it in the meantime."""
        try:
            self._file = open(self._path, "a+", encoding="utf-8")  # noqa: SIM115 - open as long as the lock
        except OSError as error:
            raise ConfigError(f"`output_dir` {str(directory)!r} can't be locked: {error}") from error
        holder = read_holder(directory)
        if not self._take(holder) and holder.get("job") != job:
            self._file.close()
            raise ConfigError(
                f"`output_dir` {str(directory)!r} is in use by process {holder.get('pid', '?')} on "
                f"{holder.get('host', '?')}; wait until that run has ended, or name another directory (if that process "
                f"is gone, and the file system has no locks, delete {str(self._path)!r})"
            )
        try:
            same = os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._path))
        except FileNotFoundError:
            same = False
        if not same:
            self._file.close()
        return same

    def _take(self, holder: dict[str, Any]) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # the file system has no locks
            return not holder or _is_gone(holder)
        self._held = True
        return True

    def _write(self, job: str, rank: int) -> None:
        try:
            self._file.truncate(0)
            self._file.write(json.dumps({"job": job, "rank": rank, **_this_process()}))
            self._file.flush()
            os.fsync(self._file.fileno())  # so that other hosts see it
        except OSError as error:
            raise ConfigError(f"{str(self._path)!r} can't be written: {error}") from error


def read_holder(directory: Path) -> dict[str, Any]:
    """The content of a directory's lock file: job, rank, host, pid, started; empty if there is no such file."""
    try:
        holder = json.loads((directory / _NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def is_abandoned(directory: Path, job: str, lost: Collection[int]) -> bool:
    """True if the lock belongs to a rank of this job that isn't lost, or to a process of this host that has ended."""
    holder = read_holder(directory)
    return holder.get("job") == job and (holder.get("rank") not in lost or _is_gone(holder))


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


def _is_gone(holder: dict[str, Any]) -> bool:
    """True if the holder's process was on this host and has ended. Another process may have its number by now."""
    if holder.get("host") != socket.gethostname():
        return False
    try:
        process = int(holder["pid"])
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (KeyError, TypeError, ValueError, PermissionError):
        return False
    if _is_dead(process):
        return True
    started = _started(process)
    return None not in (started, holder.get("started")) and started != holder["started"]


def _started(process: int) -> int | None:
    """Start of a process in clock ticks since boot; None if unknown."""
    try:
        return int(_facts(process)[19])
    except (OSError, ValueError, IndexError):
        return None


def _is_dead(process: int) -> bool:
    """True for a process that has ended but is still listed, since its parent hasn't waited for it."""
    try:
        return _facts(process)[0] in "ZX"
    except (OSError, IndexError):
        return False


def _facts(process: int) -> list[str]:
    return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
