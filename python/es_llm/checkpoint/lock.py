"""One run per directory: a lock that ends with the process that holds it.

The lock is the operating system's (`flock`), so a process that dies leaves none behind. The file says who holds it.
Where the file system has no such locks the file alone decides: one whose process is gone is stale.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from pathlib import Path
from typing import Any, Final

from es_llm.errors import ConfigError

_NAME: Final = ".lock"


class DirectoryLock:
    """Keeps other jobs out of `directory` while this process lives.

    Args:
        directory: exists.
        job: the job's own text; a lock of the same job, whose leader hangs or died, is no obstacle.

    Raises:
        ConfigError: another job works in the directory; says which process on which host.
    """

    def __init__(self, directory: Path, job: str) -> None:
        self._path = directory / _NAME
        while not self._open(directory, job):
            pass
        self._write(job)

    def release(self) -> None:
        """Let others in."""
        if not self._file.closed:
            with contextlib.suppress(OSError):
                self._path.unlink()
            self._file.close()

    def leave(self) -> None:
        """Another leader of this job holds it too, and goes on."""
        self._file.close()

    def _open(self, directory: Path, job: str) -> bool:
        """Lock the file; false if its holder has taken it away in the meantime."""
        try:
            self._file = open(self._path, "a+", encoding="utf-8")  # noqa: SIM115 - open as long as the lock
        except OSError as error:
            raise ConfigError(f"`output_dir` {str(directory)!r} can't be locked: {error}") from error
        holder = read_holder(directory)
        if not self._take(holder) and holder.get("job") != job:
            self._file.close()
            raise ConfigError(
                f"`output_dir` {str(directory)!r} is in use by process {holder.get('pid', '?')} on "
                f"{holder.get('host', '?')}; wait until that run has ended, or name another directory"
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
        except OSError:  # no locks here
            return not holder or _is_gone(holder)
        return True

    def _write(self, job: str) -> None:
        try:
            self._file.truncate(0)
            self._file.write(json.dumps({"job": job, "host": socket.gethostname(), "pid": os.getpid()}))
            self._file.flush()
        except OSError as error:
            raise ConfigError(f"{str(self._path)!r} can't be written: {error}") from error


def read_holder(directory: Path) -> dict[str, Any]:
    """What the lock file of a directory says: job, host, pid; nothing if there is none."""
    try:
        holder = json.loads((directory / _NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _is_gone(holder: dict[str, Any]) -> bool:
    if holder.get("host") != socket.gethostname():
        return False
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return True
    except (KeyError, TypeError, ValueError, PermissionError):
        return False
    return False
