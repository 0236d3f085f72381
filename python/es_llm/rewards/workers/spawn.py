"""How a worker process begins: forked from the server in milliseconds, or started by itself where that can't work.

A fork copies the memory of all threads but only one thread. What a lock or a thread pool of the others was about to do
never ends in the copy: OpenMP waits for ever for threads that it had. So a server that has more threads than its own,
since a function's file started them in its import, starts each worker as a program that loads the functions itself.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from ctypes import Array, c_double, sizeof
from pathlib import Path
from typing import Any, Final, Protocol

from es_llm.rewards.workers import system, worker
from es_llm.rewards.workers.worker import Note

_FORK: Final = multiprocessing.get_context("fork")
_HARMLESS: Final = {"jemalloc_bg_thd"}
"""Threads of libraries that know of forks, by the system's name: of pyarrow's memory."""
_ENDING_S: Final = 0.2
_NOTE_BYTES: Final = sizeof(Note)


class Process(Protocol):
    """What a crew needs of a worker's process. `sentinel` can be read when it has ended."""

    @property
    def pid(self) -> int | None:
        """Its number."""

    @property
    def sentinel(self) -> int:
        """A descriptor."""

    @property
    def exitcode(self) -> int | None:
        """None while it lives; a signal's number as a negative one."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""


def may_fork() -> bool:
    """Whether this process has no thread that a fork would lose; one that is just ending has `_ENDING_S`."""
    end = time.monotonic() + _ENDING_S
    while threads := other_threads():
        if time.monotonic() > end:
            print(
                f"es-llm: the import of the reward functions left {threads} thread{'s' * (threads != 1)} running, "
                "which forked workers would lack: each worker loads the functions itself, more slowly",
                file=sys.stderr,
                flush=True,
            )
            return False
        time.sleep(0.01)
    return True


def other_threads() -> int:
    """The number of this process's threads beside the main one that a fork would lose."""
    if not system.LINUX:
        return threading.active_count() - 1
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            names.append((task / "comm").read_text().strip())
    return sum(name not in _HARMLESS for name in names) - 1


def fork(
    theirs: socket.socket, foreign: Sequence[socket.socket], limit_s: float, memory_mb: int
) -> tuple[Process, Array[c_double]]:
    """A forked worker, and the note that it shares with this process.

    Raises:
        OSError: the system has no process left.
    """
    note = Note.from_buffer(mmap.mmap(-1, _NOTE_BYTES))
    process = _FORK.Process(target=_forked, args=(theirs, foreign, note, os.getpid(), limit_s, memory_mb))
    process.start()
    return process, note


def _forked(end: socket.socket, foreign: Sequence[socket.socket], note: Any, server: int, *limits: Any) -> None:
    os.setsid()
    for each in foreign:
        each.close()
    worker.work(end, note, server, *limits)


def start(theirs: socket.socket) -> tuple[Process, Array[c_double]]:
    """A worker that is a program of its own; the first message to it is a `Start`, its first one says how that went.

    Raises:
        OSError: the system has no process left.
    """
    with tempfile.TemporaryFile() as file:
        file.truncate(_NOTE_BYTES)
        note = Note.from_buffer(mmap.mmap(file.fileno(), _NOTE_BYTES))
        process = _Started([theirs.fileno(), file.fileno()])
    return process, note


class _Started:
    """A program, with what multiprocessing offers of a process."""

    def __init__(self, descriptors: list[int]) -> None:
        self.sentinel, theirs = os.pipe()
        try:
            words = [
                sys.executable,
                "-m",
                "es_llm.rewards.workers.worker",
                *map(str, [os.getpid(), *descriptors, theirs]),
            ]
            self._process = subprocess.Popen(words, pass_fds=[*descriptors, theirs], start_new_session=True)
        except BaseException:
            os.close(self.sentinel)
            raise
        finally:
            os.close(theirs)
        self.pid = self._process.pid

    @property
    def exitcode(self) -> int | None:
        return self._process.poll()

    def join(self, timeout: float | None = None) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.close(self.sentinel)
