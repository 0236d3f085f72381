"""Units, schedule and the ranks' machine, through the bindings. The property tests are the core's own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_llm._core import Event, RankMachine, Schedule, plan_units
from es_llm.errors import ScheduleError


def steps_of(machine):
    steps = []
    while (step := machine.next()).kind != "finish":
        assert machine.next() == step
        steps.append((step.kind, step.member, step.unit))
        machine.done(0.0)
    return steps


@given(st.integers(1, 12), st.integers(1, 30), st.integers(1, 40))
def test_units_cover_every_cell_once(members, prompts, chunk):
    units = plan_units(members, prompts, chunk)
    cells = [(unit.member, prompt) for unit in units for prompt in range(unit.start, unit.stop)]
    assert cells == [(member, prompt) for member in range(members) for prompt in range(prompts)]
    assert [unit.index for unit in units] == list(range(len(units)))
    assert repr(units[0]) == f"Unit(index=0, member=0, start=0, stop={min(chunk, prompts)})"


@given(st.integers(1, 8), st.integers(1, 10), st.integers(1, 5), st.integers(1, 9), st.booleans())
def test_ranks_evaluate_every_unit_once_with_its_member_live(members, prompts, chunk, ranks, digest):
    units = plan_units(members, prompts, chunk)
    evaluated = []
    for rank in range(ranks):
        steps = steps_of(RankMachine(rank=rank, ranks=ranks, units=units, digest=digest))
        live = None
        for kind, member, unit in steps:
            if kind == "perturb":
                assert member != live
                live = member
            elif kind == "evaluate":
                assert units[unit].member == live
                evaluated.append(unit)
        tail = ["exchange", "journal", "update"] + ["digest"] * digest
        assert [kind for kind, _, _ in steps[-len(tail) :]] == tail
    assert evaluated == list(range(len(units)))


def test_survivors_take_the_open_units():
    units = plan_units(2, 4, 2)
    steps = steps_of(RankMachine(rank=0, ranks=1, units=[units[1], units[3]], digest=False))
    assert [step for step in steps if step[0] == "evaluate"] == [("evaluate", None, 1), ("evaluate", None, 3)]
    assert steps_of(RankMachine(rank=0, ranks=1, units=[], digest=False))[0][0] == "exchange"


def test_the_schedule_replans_after_a_loss_and_finishes_once():
    schedule = Schedule(3, [0, 1])
    assert [repr(a) for a in schedule.handle_event(0.0, Event.WorkerReady(0))] == [
        'Action(kind="assign", worker=0, unit=0)'
    ]
    assert schedule.handle_event(0.0, Event.WorkerReady(1))[0].unit == 2
    assert schedule.handle_event(0.5, Event.UnitDone(1, 2)) == []
    assert schedule.handle_event(0.5, Event.WorkerLost(0))[0].worker == 1
    schedule.handle_event(0.6, Event.WorkerJoined(5))
    assert not schedule.is_done(0)
    assert schedule.handle_event(0.7, Event.UnitDone(1, 0))[0].unit == 1
    assert [a.kind for a in schedule.handle_event(0.8, Event.UnitDone(1, 1))] == ["finish"]
    assert schedule.handle_event(0.9, Event.UnitDone(1, 1)) == []
    assert schedule.handle_event(1.0, Event.Tick()) == []
    assert schedule.is_done(0)
    assert schedule.finished


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Schedule(0, [0]), "at least 1 unit"),
        (lambda: Schedule(1, []), "no worker is left for 1 open units"),
        (lambda: Schedule(1, [3, 3]), "worker 3 is there already"),
        (lambda: Schedule(1, [0]).handle_event(0.0, Event.WorkerReady(1)), "worker 1 is unknown"),
        (lambda: Schedule(2, [0]).handle_event(0.0, Event.UnitDone(0, 2)), "unit 2 is unknown.* 0 to 1"),
        (lambda: Schedule(2, [0]).handle_event(0.0, Event.WorkerLost(0)), "no worker is left for 2 open units"),
        (lambda: RankMachine(rank=2, ranks=2, units=[], digest=False), "`rank` must be from 0 to 1, got 2"),
        (lambda: plan_units(1, 0, 1), "`prompts` must be at least 1"),
    ],
)
def test_refusals_say_what_was_expected(call, message):
    with pytest.raises(ScheduleError, match=message):
        call()


def test_a_finished_machine_has_no_next_step():
    machine = RankMachine(rank=0, ranks=1, units=[], digest=False)
    steps_of(machine)
    assert repr(machine.next()) == 'Step(kind="finish")'
    with pytest.raises(ScheduleError, match="finished"):
        machine.done(0.0)
