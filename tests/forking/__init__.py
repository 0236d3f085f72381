"""Processes that start in a fraction of a second, because a server has imported torch and transformers for them.

Of the ten CPU seconds of a short run, more than seven are imports. Each pytest worker has one server, which starts with
the first command. `launcher.py` describes what a forked process has in common with a real start. The differences:
another process id than the launcher's (`forked`), a session of its own, the server's seed of `hash`, and libraries that
were imported before MPI. A test about the start of a process uses a real one.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

LAUNCHER = Path(__file__).with_name("launcher.py")
_ENVIRONMENT: dict[str, str] = {}
_started: list[tuple[Path, subprocess.Popen, int]] = []
"""The server's folder, its process, and the descriptor that keeps it alive."""


def keep_environment() -> None:
    """Let the server have today's environment, whatever a test sets before the server starts."""
    _ENVIRONMENT.update(os.environ)


def command(module: str, *words: str) -> list[str]:
    """A command line that stands for `python -m MODULE WORDS`."""
    return [sys.executable, "-I", "-S", str(LAUNCHER), str(_folder() / "socket"), module, *words]


def forked(launcher: int) -> int | None:
    """The process id of the process that runs a launcher's module; None if there is none yet, or a real start."""
    with contextlib.suppress(FileNotFoundError):
        if _started:
            return int((_folder() / str(launcher)).readlink().name)
    return None


def server_pid() -> int | None:
    return _started[0][1].pid if _started else None


def _folder() -> Path:
    """The folder of this process's server, which is started if there is none."""
    if not _started:
        folder = Path(tempfile.mkdtemp(prefix="es_llm_fork_"))
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / "socket"))
        listener.listen(64)
        read, write = os.pipe()
        server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("server.py"), str(listener.fileno()), str(read), folder],
            pass_fds=(listener.fileno(), read), env=_ENVIRONMENT or None, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        listener.close()
        os.close(read)
        _started.append((folder, server, write))
        atexit.register(_stop)
    return _started[0][0]


def _stop() -> None:
    _, server, write = _started.pop()
    os.close(write)
    server.wait(30)
