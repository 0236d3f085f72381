"""The state machine of a rank through the bindings: steps, tables, losses, errors. Rust tests simulate whole jobs."""

import ast
import inspect

import pytest

from es_llm import _core
from es_llm._core import ASSIGNMENTS, Instruction, Loss, Table, TeamRank
from es_llm.errors import CommunicationError, EsError, ScheduleError
from es_llm.team import call


def leader():
    """The state machine of a single rank, which leads."""
    machine = TeamRank(0, 1)
    machine.enter(0.0)
    assert isinstance(machine.next(0.0), Instruction.Lead)
    return machine


def test_a_round_ends_with_its_table():
    machine = leader()
    machine.begin(0.0, 1, 0, [1.0, 2.0])
    for values, figures in (([0.5, 2.0], b""), ([], b"some")):
        match machine.next(0.0):
            case Instruction.Evaluate(kind, iteration, unit):
                assert (kind, iteration) == (1, 0)
                machine.evaluated(0.0, values, [2**64 - 1, unit], figures)
            case other:
                pytest.fail(repr(other))
    match machine.next(0.0):
        case Instruction.Complete(table):
            assert isinstance(table, Table)
            assert sorted(table.values) == [[], [0.5, 2.0]]
            assert table.counts == [2**64 - 2, 1]
            assert table.figures == [(table.values.index([]), b"some")]
            assert repr(table) == "Table(units=2)"
        case other:
            pytest.fail(repr(other))
    assert isinstance(machine.next(0.0), Instruction.Wait)


def test_records_and_results_are_bytes():
    machine = leader()
    assert machine.restore(0.0, 0, [b"first"])
    assert not machine.restore(0.0, 0, [b"other"])
    match machine.next(0.0):
        case Instruction.Apply(iteration, payload):
            assert (iteration, payload) == (0, b"first")
        case other:
            pytest.fail(repr(other))
    assert not machine.publish(0.0, 0, b"again")
    assert machine.publish(0.0, 1, b"second")
    assert machine.records() == [b"first", b"second"]
    assert isinstance(machine.next(0.0), Instruction.Apply)
    machine.finish(0.0, b"result")
    match machine.next(0.0):
        case Instruction.Finished(payload):
            assert payload == b"result"
        case other:
            pytest.fail(repr(other))


def test_a_loss_is_an_instruction_with_its_reason():
    machine = TeamRank(0, 2)
    machine.enter(0.0)
    machine.next(0.0)
    machine.lost(0.0, 1)
    match machine.next(0.0):
        case Instruction.Lost(rank, Loss.Dead() as loss):
            assert (rank, str(loss), repr(loss)) == (1, "dead", "Loss.Dead")
        case other:
            pytest.fail(repr(other))
    machine.resign(0.0, "no memory")
    assert machine.losses == {0: Loss.Failed("no memory"), 1: Loss.Dead()}
    assert [str(loss) for loss in machine.losses.values()] == ["failed: no memory", "dead"]
    assert str(Loss.Silent()) == "silent"


def test_every_instruction_is_carried_out():
    """mypy doesn't know the variants of a Rust enum, so a missing case would be found only at run time."""
    patterns = [node for node in ast.walk(ast.parse(inspect.getsource(call))) if isinstance(node, ast.MatchClass)]
    matched = {ast.unparse(pattern.cls) for pattern in patterns}
    arms = {name for name, arm in vars(Instruction).items() if isinstance(arm, type)}
    assert matched == {f"Instruction.{name}" for name in arms}


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (lambda machine: machine.begin(0.0, 0, 0, []), ScheduleError, "at least 1 unit"),
        (
            lambda machine: machine.begin(0.0, 0, 0, [1.0, -2.0]),
            ScheduleError,
            "unit 1 must have an expected cost > 0 and finite, got -2",
        ),
        (
            lambda machine: machine.renew(1, assignment="greedy"),
            ScheduleError,
            f'must be "{ASSIGNMENTS[0]}" or "{ASSIGNMENTS[1]}", got "greedy"',
        ),
        (lambda machine: machine.receive(0.0, 0, b"\xff"), CommunicationError, "message"),
    ],
)
def test_refusals_say_what_was_expected(use, error, message):
    with pytest.raises(error, match=message):
        use(leader())


def test_a_panic_in_the_core_is_an_error_of_this_package(capfd):
    with pytest.raises(EsError, match="defect in the core, please report: it leads") as caught:
        _core._panic_in_core("it leads")
    assert type(caught.value) is EsError
    assert "it leads" in capfd.readouterr().err, "where it was"
