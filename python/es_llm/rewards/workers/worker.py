"""One worker process: calls reward functions, and writes down the deadline of each call for the server.

A worker is forked from the server, or started as a program: `python -m es_llm.rewards.workers.worker ...`.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from ctypes import Array, c_double, sizeof
from functools import partial
from typing import Final

from es_llm.plugins import same_directory
from es_llm.rewards.batch import RAISED, RewardResult
from es_llm.rewards.call import call, call_concurrently, call_each, is_async, load_reward
from es_llm.rewards.loop import Loop, end_fork
from es_llm.rewards.workers.channel import read_message, write_message
from es_llm.rewards.workers.protocol import PartRequest, Start, WorkerLimits, pack, unpack
from es_llm.rewards.workers.system import end_with_parent, limit_memory
from es_llm.types import RewardFunction

GRACE_S: Final = 2.0
"""Seconds that an async function has to end after it was cancelled, before the server kills its worker."""
ANSWER_S: Final = 60.0
"""Seconds in which the server must have received an answer."""
ALL: Final = -1
ANSWERING: Final = -2
"""Values instead of the index of a completion: all completions are called together; all calls have returned."""

SharedDeadline: Final = c_double * 2
"""Memory that a worker shares with the server. [0]: deadline of the current completion, as `time.monotonic`; infinite
without a limit, 0 before the first completion. [1]: index of that completion."""


def serve(
    end: socket.socket,
    functions: Mapping[str, RewardFunction],
    shared: Array[c_double],
    server: int,
    limits: WorkerLimits,
) -> None:
    """Answer requests until the server ends. This process is the leader of a new session."""
    end_with_parent(server)
    for number in (signal.SIGINT, signal.SIGTERM):  # the server ignores them; processes of a function shouldn't
        signal.signal(number, signal.SIG_DFL)
    limit_memory(limits.memory_mb)
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 3000))
    deadline, loop = Deadline(shared, limits.timeout_s), Loop()
    while True:
        try:
            request: PartRequest = unpack(read_message(end))
        except (EOFError, OSError):
            os._exit(0)
        start = time.perf_counter()
        result = _result(request, functions[request.name], deadline, loop)
        write_message(end, pack((result, time.perf_counter() - start)))
        if loop.stuck:  # another worker doesn't wait for locks that the stuck call holds
            os._exit(0)


def receive_start(end: socket.socket) -> tuple[Start, dict[str, RewardFunction]]:
    """The first message, and its functions by name. If a function can't be loaded, this process sends its name and the
    reason, and ends."""
    start: Start = unpack(read_message(end))
    sys.path[:] = start.path
    functions = {}
    for name, (kind, value) in start.functions.items():
        try:
            with same_directory():
                functions[name] = load_reward(value) if kind == "reference" else unpack(value)
        except BaseException as error:
            write_message(end, pack((name, f"{type(error).__name__}: {error}")))
            sys.exit()
    return start, functions


def main(server: int, channel: int, shared_file: int, sentinel: int) -> None:
    """Load the functions, report success or the failure, and serve.

    Args:
        server: number of the parent process.
        channel: descriptor of this worker's end of its channel.
        shared_file: descriptor of the file of the `SharedDeadline`.
        sentinel: descriptor that is open as long as this process lives.
    """
    end_with_parent(server)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(sentinel, False)
    shared = SharedDeadline.from_buffer(mmap.mmap(shared_file, sizeof(SharedDeadline)))
    os.close(shared_file)
    end = socket.socket(fileno=channel)
    start, functions = receive_start(end)
    write_message(end, pack(None))
    serve(end, functions, shared, server, start.limits)


class Deadline:
    """Writes the deadline of the current completion into the memory that is shared with the server."""

    def __init__(self, shared: Array[c_double], limit_s: float) -> None:
        self._shared, self.limit_s = shared, limit_s

    def begin(self, index: int, grace_s: float = 0.0) -> None:
        """Begin completion `index` of the part, or `ALL` of them. For `ALL`, call it again when a completion ends."""
        self._set(index, self.limit_s + grace_s if self.limit_s else float("inf"))

    def answer(self) -> None:
        """All functions have returned; only the answer has to be sent."""
        self._set(ANSWERING, ANSWER_S)

    def _set(self, index: int, seconds: float) -> None:
        self._shared[0] = float("inf")  # the server may read between these lines
        self._shared[1] = index
        self._shared[0] = time.monotonic() + seconds


def _result(request: PartRequest, function: RewardFunction, deadline: Deadline, loop: Loop) -> RewardResult:
    pid = os.getpid()
    try:
        return _called(request, function, deadline, loop)
    except BaseException as error:
        return RewardResult.failed(len(request.batch), RAISED, f"{type(error).__name__}: {error}")
    finally:
        end_fork(pid)
        deadline.answer()


def _called(request: PartRequest, function: RewardFunction, deadline: Deadline, loop: Loop) -> RewardResult:
    name, batch = request.name, request.batch
    if request.together:
        deadline.begin(ALL)
        return call(name, function, batch, one=True, loop=loop)
    if is_async(function):
        deadline.begin(ALL, GRACE_S)
        renew = partial(deadline.begin, ALL, GRACE_S)
        return call_concurrently(name, function, batch, deadline.limit_s, loop, ended=renew)
    return call_each(name, function, batch, deadline.begin, loop)


if __name__ == "__main__":
    # Not `__main__`'s own copy: pickles name classes by this module's own name.
    from es_llm.rewards.workers.worker import main as begin

    begin(*map(int, sys.argv[1:]))
