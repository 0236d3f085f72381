"""One worker process of the reward server: calls reward functions item by item, under a time limit for each."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from es_llm._core import Watchdog
from es_llm.rewards.batch import Batch, Scores
from es_llm.rewards.call import call, call_at_once, call_each, is_async
from es_llm.rewards.processes import end_with_parent, limit_memory

OVERTIME: Final = 86
"""Exit code of a worker whose item took too long."""
_GRACE_S: Final = 2.0
"""An async function has so long to be cancelled."""

FUNCTIONS: dict[str, Any] = {}
"""By name; the server fills it before it forks its workers."""
_watchdogs: list[Watchdog] = []


def start(server: int, memory_mb: int) -> None:
    """A worker begins: it leads a group of its own, and ends with the server."""
    os.setsid()
    end_with_parent(server)
    limit_memory(memory_mb)
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 3000))
    _watchdogs.append(Watchdog())


def score(name: str, batch: Batch, limit_s: float, together: bool) -> Scores:
    """Scores of some completions; `together`: by one call that gives one float for all. The process ends when a call
    takes longer than `limit_s` (0: it may take any time)."""
    function, pid, watchdog = FUNCTIONS[name], os.getpid(), _watchdogs[-1]

    def begin() -> None:
        if limit_s:
            watchdog.arm(limit_s, OVERTIME)

    try:
        if together:
            begin()
            return call(name, function, batch, one=True)
        if is_async(function):
            if limit_s:
                watchdog.arm(limit_s + _GRACE_S, OVERTIME)
            return call_at_once(name, function, batch, limit_s)
        return call_each(name, function, batch, begin)
    finally:
        watchdog.disarm()
        if os.getpid() != pid:  # a child that the function forked came back from it
            os._exit(1)
