"""Units, schedule and the ranks' machine, through the bindings. The property tests are the core's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_llm._core import Event, Schedule, plan_units
from es_llm.errors import ScheduleError


@given(st.integers(1, 12), st.integers(1, 30), st.integers(1, 40))
def test_units_cover_every_cell_once(members, prompts, chunk):
    units = plan_units(members, prompts, chunk)
    cells = [(unit.member, prompt) for unit in units for prompt in range(unit.start, unit.stop)]
    assert cells == [(member, prompt) for member in range(members) for prompt in range(prompts)]
    assert [unit.index for unit in units] == list(range(len(units)))
    assert repr(units[0]) == f"Unit(index=0, member=0, start=0, stop={min(chunk, prompts)})"


def even(workers):
    return dict.fromkeys(workers, 0.0)


def test_the_schedule_replans_after_a_loss_and_finishes_once():
    schedule = Schedule([1.0] * 3, even([0, 1]), "static")
    assert [repr(a) for a in schedule.handle_event(0.0, Event.WorkerReady(0))] == [
        'Action(kind="assign", worker=0, unit=0)',
        'Action(kind="assign", worker=0, unit=1)',
    ]
    assert schedule.handle_event(0.0, Event.WorkerReady(1))[0].unit == 2
    assert schedule.handle_event(0.5, Event.UnitDone(1, 2)) == []
    assert [a.unit for a in schedule.handle_event(0.5, Event.WorkerLost(0))] == [0, 1]
    schedule.handle_event(0.6, Event.WorkerJoined(5))
    assert not schedule.is_done(0)
    assert schedule.handle_event(0.7, Event.UnitDone(1, 0)) == []
    assert [a.kind for a in schedule.handle_event(0.8, Event.UnitDone(1, 1))] == ["finish"]
    assert schedule.handle_event(0.9, Event.UnitDone(1, 1)) == []
    assert schedule.handle_event(1.0, Event.Tick()) == []
    assert schedule.is_done(0)
    assert schedule.finished


def test_dynamic_measures_speeds_duplicates_late_units_and_reports_what_differs():
    schedule = Schedule([1.0, 1.0, 2.0], even([0, 1]))
    assert [a.unit for a in schedule.handle_event(0.0, Event.WorkerReady(0))] == [2]
    assert [a.unit for a in schedule.handle_event(0.0, Event.WorkerReady(1))] == [0]
    assert [a.unit for a in schedule.handle_event(0.5, Event.UnitDone(1, 0, 7))] == [1]
    assert schedule.handle_event(1.0, Event.UnitDone(1, 1, 8)) == []
    assert schedule.speeds == {1: 2.0}
    late = schedule.handle_event(2.5, Event.Tick())
    assert [(a.kind, a.worker, a.unit) for a in late] == [("duplicate", 1, 2)]
    first = schedule.handle_event(3.0, Event.UnitDone(1, 2, 9))
    assert [(a.kind, a.worker, a.unit) for a in first] == [("cancel", 0, 2), ("finish", None, None)]
    (differs,) = schedule.handle_event(3.1, Event.UnitDone(0, 2, 10))
    assert repr(differs) == 'Action(kind="differs", worker=0, unit=2, first=1)'
    assert (differs.worker, differs.unit, differs.first) == (0, 2, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Schedule([], even([0])), "at least 1 unit"),
        (lambda: Schedule([1.0], {}), "no worker is left for 1 open units"),
        (lambda: Schedule([1.0, -2.0], even([0])), "unit 1 must have an expected cost > 0 and finite, got -2"),
        (lambda: Schedule([1.0], {3: float("nan")}), "worker 3 must have a speed >= 0 and finite .*, got NaN"),
        (lambda: Schedule([1.0], even([0]), "greedy"), '`assignment` must be "static" or "dynamic", got "greedy"'),
        (lambda: Schedule([1.0], even([0])).handle_event(0.0, Event.WorkerReady(1)), "worker 1 is unknown"),
        (lambda: Schedule([1.0] * 2, even([0])).handle_event(0.0, Event.UnitDone(0, 2)), "unit 2 is unknown.* 0 to 1"),
        (lambda: Schedule([1.0] * 2, even([0])).handle_event(0.0, Event.WorkerLost(0)), "no worker is left for 2 open"),
        (lambda: Schedule([1.0], even([0])).handle_event(0.0, Event.WorkerJoined(0)), "worker 0 is there already"),
        (lambda: plan_units(1, 0, 1), "`prompts` must be at least 1"),
    ],
)
def test_refusals_say_what_was_expected(call, message):
    with pytest.raises(ScheduleError, match=message):
        call()
