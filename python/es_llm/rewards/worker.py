"""One worker process of the reward server: calls reward functions item by item, and notes when each must be done."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import MutableSequence
from multiprocessing.connection import Connection
from typing import Any, Final

from es_llm.rewards.batch import RAISED, Batch, Scores
from es_llm.rewards.call import call, call_at_once, call_each, is_async
from es_llm.rewards.processes import end_with_parent, limit_memory

GRACE_S: Final = 2.0
"""An async function has so long to be cancelled."""

FUNCTIONS: dict[str, Any] = {}
"""By name; the server fills it before it forks its workers."""


def work(connection: Connection, note: MutableSequence[float], server: int, limit_s: float, memory_mb: int) -> None:
    """Answer (name, batch, together) by (scores, seconds that they took), until the server ends.

    `note`: [when the time is over of what it is at (of `time.monotonic`, infinite without a limit; 0: it isn't at
    anything), which completion that is (-1: all together)]. The server looks at it, and kills who is late.
    """
    os.setsid()
    end_with_parent(server)
    for number in (signal.SIGINT, signal.SIGTERM):  # what the server ignores, and what a function starts shouldn't
        signal.signal(number, signal.SIG_DFL)
    limit_memory(memory_mb)
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 3000))
    clock = Clock(note, limit_s)
    while True:
        try:
            name, batch, together = connection.recv()
        except (EOFError, OSError):
            os._exit(0)
        start = time.perf_counter()
        scores = score(name, batch, clock, together)
        connection.send((scores, time.perf_counter() - start))


class Clock:
    """Tells the server which completion is begun and how long it may take."""

    def __init__(self, note: MutableSequence[float], limit_s: float) -> None:
        self._note, self.limit_s = note, limit_s

    def begin(self, place: int, grace_s: float = 0.0) -> None:
        """Completion `place` of the part is begun, or all of them (-1)."""
        self._note[0] = float("inf")
        self._note[1] = place
        if self.limit_s:
            self._note[0] = time.monotonic() + self.limit_s + grace_s

    def rest(self) -> None:
        """Nothing is at work; the limit doesn't hold for the way of the answer."""
        self._note[0] = float("inf")


def score(name: str, batch: Batch, clock: Clock, together: bool) -> Scores:
    """Scores of some completions; `together`: by one call that gives one float for all."""
    function, pid = FUNCTIONS[name], os.getpid()
    try:
        if together:
            clock.begin(-1)
            return call(name, function, batch, one=True)
        if is_async(function):
            clock.begin(-1, GRACE_S)
            return call_at_once(name, function, batch, clock.limit_s)
        return call_each(name, function, batch, clock.begin)
    except BaseException as error:
        return Scores.failed(len(batch), RAISED, f"{type(error).__name__}: {error}")
    finally:
        if os.getpid() != pid:  # a child that the function forked came back from it
            os._exit(1)
        clock.rest()
