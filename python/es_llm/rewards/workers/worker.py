"""One worker process of the reward server: calls reward functions item by item, and notes when each must be done."""

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
from typing import Any, Final

from es_llm.rewards.batch import RAISED, Batch, Scores
from es_llm.rewards.call import call, call_at_once, call_each, is_async
from es_llm.rewards.loading import load_reward, same_directory
from es_llm.rewards.loop import Loop
from es_llm.rewards.workers.channel import read_message, write_message
from es_llm.rewards.workers.protocol import Start, Task, packed, unpacked
from es_llm.rewards.workers.system import end_with_parent, limit_memory

GRACE_S: Final = 2.0
"""An async function has so long to be cancelled."""
ANSWER_S: Final = 60.0
"""An answer has so long to be read by the server."""
TOGETHER: Final = -1
ANSWERING: Final = -2
"""What stands in the place of a completion: all of them at once; none any more."""

Note: Final = c_double * 2
"""What a worker and the server share: the end of its time, and which completion it is at."""
LOOP: Final = Loop()
"""Of this worker, for its life. The server has none: its thread would begin in a worker alone."""
FUNCTIONS: dict[str, Any] = {}
"""By name; the server fills it before it forks its workers."""


def work(end: socket.socket, note: Array[c_double], server: int, limit_s: float, memory_mb: int) -> None:
    """Answer tasks until the server ends. This process leads a session of its own.

    Args:
        end: this worker's end of its channel.
        note: [when the time is over of what it is at (of `time.monotonic`, infinite without a limit; 0: it isn't at
            anything), which completion that is]. The server looks at it, and kills who is late.
        server: the parent process.
        limit_s: seconds that a completion may take; 0: any time.
        memory_mb: megabytes that it may need for itself; 0: no limit.
    """
    end_with_parent(server)
    for number in (signal.SIGINT, signal.SIGTERM):  # what the server ignores, and what a function starts shouldn't
        signal.signal(number, signal.SIG_DFL)
    limit_memory(memory_mb)
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 3000))
    clock = Clock(note, limit_s)
    while True:
        try:
            task: Task = unpacked(read_message(end))
        except (EOFError, OSError):
            os._exit(0)
        start = time.perf_counter()
        scores = score(task.name, task.batch, clock, task.together)
        write_message(end, packed((scores, time.perf_counter() - start)))
        if LOOP.stuck:  # what its task holds, another worker can have
            os._exit(0)


def load(functions: Mapping[str, tuple[str, Any]]) -> tuple[str, str] | None:
    """Load the functions of a `Start`; the name of one that can't be loaded, and why."""
    for name, (kind, given) in functions.items():
        try:
            with same_directory():
                FUNCTIONS[name] = load_reward(given) if kind == "reference" else unpacked(given)
        except BaseException as error:
            return name, f"{type(error).__name__}: {error}"
    return None


def main(server: int, channel: int, shared: int, sentinel: int) -> None:
    """A worker that is a program of its own: it loads the functions, says so, and works.

    Args:
        server: the parent process.
        channel, shared, sentinel: descriptors of the channel, of the file of the note, and of what the server reads
            the end of.
    """
    end_with_parent(server)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(sentinel, False)
    note = Note.from_buffer(mmap.mmap(shared, sizeof(Note)))
    os.close(shared)
    end = socket.socket(fileno=channel)
    start: Start = unpacked(read_message(end))
    sys.path[:] = start.path
    failed = load(start.functions)
    write_message(end, packed(failed))
    if failed is None:
        work(end, note, server, start.limit_s, start.memory_mb)


class Clock:
    """Tells the server which completion is begun and how long it may take."""

    def __init__(self, note: Array[c_double], limit_s: float) -> None:
        self._note, self.limit_s = note, limit_s

    def begin(self, place: int, grace_s: float = 0.0) -> None:
        """Completion `place` of the task is begun, or all of them (`TOGETHER`), whose time each end renews."""
        self._set(place, self.limit_s + grace_s if self.limit_s else float("inf"))

    def answer(self) -> None:
        """All that is left is the way of the answer."""
        self._set(ANSWERING, ANSWER_S)

    def _set(self, place: int, seconds: float) -> None:
        self._note[0] = float("inf")  # the server may look in between
        self._note[1] = place
        self._note[0] = time.monotonic() + seconds


def score(name: str, batch: Batch, clock: Clock, together: bool) -> Scores:
    """Scores of some completions; `together`: by one call that gives one float for all."""
    function, pid = FUNCTIONS[name], os.getpid()
    try:
        if together:
            clock.begin(TOGETHER)
            return call(name, function, batch, one=True, loop=LOOP)
        if is_async(function):
            clock.begin(TOGETHER, GRACE_S)
            renew = partial(clock.begin, TOGETHER, GRACE_S)
            return call_at_once(name, function, batch, clock.limit_s, LOOP, ended=renew)
        return call_each(name, function, batch, clock.begin, LOOP)
    except BaseException as error:
        return Scores.failed(len(batch), RAISED, f"{type(error).__name__}: {error}")
    finally:
        if os.getpid() != pid:  # a child that the function forked came back from it
            os._exit(1)
        clock.answer()


if __name__ == "__main__":
    # Not `__main__`'s own copy: what is pickled must be found under the module's name.
    from es_llm.rewards.workers.worker import main as begin

    begin(*map(int, sys.argv[1:]))
