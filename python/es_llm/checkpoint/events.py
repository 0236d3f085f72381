"""Events of a journal: what happened in a run beside its records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

Event: TypeAlias = dict[str, Any]
"""An event as its JSON object: `event`, its kind; `step`, the number of iterations that were done; further keys by
kind. The time of day is added when an event is written."""


def happened(kind: str, step: int, **more: Any) -> Event:
    """An event of this kind. A finding's kind is its reason."""
    return {"event": kind, "step": step, **more}


def is_start(event: Event, call: str | None = None) -> bool:
    """True for the start of a call of `train`: of any call, or of this one."""
    return "call" in event and call in (None, event["call"])


def is_evaluation(event: Event) -> bool:
    """True for an evaluation."""
    return event.get("event") == "evaluation"


def was_lost(journaled: Sequence[Event], rank: int) -> bool:
    """True if the last event about a rank of the current job is its loss."""
    is_lost = False
    for event in journaled:
        if is_start(event):
            is_lost = False  # another job, with other processes
        elif event.get("rank") == rank:
            is_lost = event["event"] == "lost"
    return is_lost
