"""Units of work over ranks: run one's own, gather all. Carries what the schedule says; has no policy of its own.

A unit's result is a table (prompts of the unit, columns) of float64; NaN is a failure. Only these scalars travel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from es_llm._core import Event, Schedule, Unit
from es_llm.comm import Communicator

Scores = NDArray[np.float64]


def own_units(rank: int, ranks: int, units: Sequence[Unit]) -> Iterator[Unit]:
    """The units that the static schedule gives to `rank`, one by one."""
    schedule = Schedule([1.0] * len(units), dict.fromkeys(range(ranks), 0.0), "static")
    for action in schedule.handle_event(0.0, Event.WorkerReady(rank)):
        assert action.unit is not None
        yield units[action.unit]


def gather(comm: Communicator, units: Sequence[Unit], own: Mapping[int, Scores], columns: int) -> Scores:
    """All units' results on every rank: (N members, B prompts, columns).

    Args:
        comm: the ranks.
        units: all units of the plan.
        own: unit index -> result, for the units that this rank ran.
        columns: width of every result.

    Raises:
        AssertionError: a unit is missing or came twice (a bug of the schedule).
    """
    payload = b"".join(
        np.float64(index).tobytes() + np.ascontiguousarray(scores).tobytes() for index, scores in sorted(own.items())
    )
    table = np.full((1 + units[-1].member, max(unit.stop for unit in units), columns), np.nan)
    seen: set[int] = set()
    for part in comm.allgather(payload):
        words = np.frombuffer(part, np.float64)
        place = 0
        while place < len(words):
            unit = units[int(words[place])]
            size = (unit.stop - unit.start) * columns
            table[unit.member, unit.start : unit.stop] = words[place + 1 : place + 1 + size].reshape(-1, columns)
            assert unit.index not in seen, f"unit {unit.index} came twice"
            seen.add(unit.index)
            place += 1 + size
    assert len(seen) == len(units), f"{len(units) - len(seen)} units are missing"
    return table
