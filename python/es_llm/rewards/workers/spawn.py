"""Starts worker processes: forked from the server in milliseconds, or as programs where a fork wouldn't work.

A fork copies the memory of all threads but only one thread. Locks and thread pools that the other threads held never
recover in the copy: OpenMP, for example, waits forever for its threads. So if the import of a function's file left
threads running in the server, each worker is started as a program that loads the functions itself.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import multiprocessing.context
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from ctypes import Array, c_double, sizeof
from pathlib import Path
from typing import Final, TypeAlias

from es_llm.rewards.workers import system, worker
from es_llm.rewards.workers.protocol import WorkerLimits
from es_llm.rewards.workers.worker import SharedDeadline
from es_llm.types import RewardFunction

_FORK: Final = multiprocessing.get_context("fork")
_HARMLESS: Final = {"jemalloc_bg_thd"}
"""System names of threads that survive a fork: pyarrow's memory allocator knows of forks."""
_ENDING_S: Final = 0.2
"""Seconds that a thread has to end before it counts as running."""


def may_fork() -> bool:
    """True if a fork of this process would lose no thread."""
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
    """Number of threads of this process that a fork would lose: all but the main one."""
    if not system.LINUX:
        return threading.active_count() - 1
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # the thread has just ended
            names.append((task / "comm").read_text().strip())
    return sum(name not in _HARMLESS for name in names) - 1


def fork(
    theirs: socket.socket,
    foreign: Sequence[socket.socket],
    functions: Mapping[str, RewardFunction],
    limits: WorkerLimits,
) -> tuple[Process, Array[c_double]]:
    """A forked worker, and the `SharedDeadline` that it shares with this process."""
    shared = SharedDeadline.from_buffer(mmap.mmap(-1, sizeof(SharedDeadline)))
    server = os.getpid()

    def begin() -> None:
        os.setsid()
        for each in foreign:
            each.close()
        worker.serve(theirs, functions, shared, server, limits)

    process = _FORK.Process(target=begin)
    process.start()
    return process, shared


def start(theirs: socket.socket) -> tuple[Process, Array[c_double]]:
    """A worker that is a program. The first message to it must be a `Start`; its first answer reports the loading."""
    with tempfile.TemporaryFile() as file:
        file.truncate(sizeof(SharedDeadline))
        shared = SharedDeadline.from_buffer(mmap.mmap(file.fileno(), sizeof(SharedDeadline)))
        process = _Program([theirs.fileno(), file.fileno()])
    return process, shared


class _Program:
    """A started program with the interface of `multiprocessing.Process`."""

    def __init__(self, descriptors: list[int]) -> None:
        self.sentinel, theirs = os.pipe()
        try:
            numbers = map(str, [os.getpid(), *descriptors, theirs])
            command = [sys.executable, "-m", "es_llm.rewards.workers.worker", *numbers]
            self._process = subprocess.Popen(command, pass_fds=[*descriptors, theirs], start_new_session=True)
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


Process: TypeAlias = multiprocessing.context.ForkProcess | _Program
"""A worker's process. `sentinel` becomes readable when it ends; `exitcode` is None while it lives."""
