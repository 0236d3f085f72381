"""Events of a journal: what happened in a run beside its records. One constructor per kind; `step` is the number of
iterations that were done. The time of day is added when an event is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Event: TypeAlias = dict[str, Any]
"""An event as its JSON object: `event`, its kind, and `step`; further keys by kind."""


def started(step: int, *, ranks: int, call: str) -> Event:
    """The start of a call of `train` with this number of ranks, after `step` saved iterations."""
    return {"event": "resumed" if step else "started", "step": step, "ranks": ranks, "call": call}


def is_start(event: Event, call: str | None = None) -> bool:
    """True for a start: of any call, or of this one."""
    return "call" in event and call in (None, event["call"])


def evaluation(step: int, metrics: Mapping[str, float], answers: Sequence[tuple[str, str]]) -> Event:
    """An evaluation, with the leader's first answers as (prompt, completion)."""
    return {"event": "evaluation", "step": step, "metrics": metrics, "answers": answers}


def is_evaluation(event: Event) -> bool:
    """True for an evaluation."""
    return event.get("event") == "evaluation"


def failures(step: int, count: int, examples: Mapping[str, str]) -> Event:
    """Rewards that failed in an iteration: their number, and the first failure so far of each function."""
    return {"event": "failures", "step": step, "count": count, "examples": examples}


def finding(step: int, reason: str, why: str) -> Event:
    """A reason why the run can't learn; the reason is the event's kind."""
    return {"event": reason, "step": step, "why": why}


def lost(step: int, rank: int, why: str) -> Event:
    """A rank was lost."""
    return {"event": "lost", "step": step, "rank": rank, "why": why}


def back(step: int, rank: int) -> Event:
    """A lost rank takes part again."""
    return {"event": "back", "step": step, "rank": rank}


def was_lost(journaled: Sequence[Event], rank: int) -> bool:
    """True if the last event about a rank of the current job is its loss."""
    is_lost = False
    for event in journaled:
        if is_start(event):
            is_lost = False  # another job, with other processes
        elif event.get("rank") == rank:
            is_lost = event["event"] == "lost"
    return is_lost


def diverged(step: int, ranks: Sequence[int]) -> Event:
    """Ranks had other weights than the majority."""
    return {"event": "diverged", "step": step, "ranks": list(ranks)}


def differs(step: int, ranks: Sequence[int]) -> Event:
    """Two ranks gave different results for one unit."""
    return {"event": "differs", "step": step, "ranks": list(ranks)}


def snapshot(step: int) -> Event:
    """A snapshot was written."""
    return {"event": "snapshot", "step": step}


def snapshot_failed(step: int, why: str) -> Event:
    """A snapshot could not be written."""
    return {"event": "snapshot failed", "step": step, "why": why}


def interrupted(step: int) -> Event:
    """A signal ended the call; the run can be resumed."""
    return {"event": "interrupted", "step": step}
