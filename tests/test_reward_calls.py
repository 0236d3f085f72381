"""One call of a reward function: whatever it raises, forks or logs costs its own completion alone."""

from __future__ import annotations

import asyncio
import math
import os
import signal

import pytest

from es_llm.rewards.batch import RAISED, TIMEOUT, Batch
from es_llm.rewards.call import call, call_at_once, call_each

LIMIT_S = 0.5


def batch(texts):
    return Batch.of([{"prompt": "p"} for _ in texts], texts, [[0]] * len(texts))


class OddError(BaseException):
    pass


ERRORS = {
    "cancelled": asyncio.CancelledError,
    "interrupt": KeyboardInterrupt,
    "exit": SystemExit,
    "odd": OddError,
    "generator": GeneratorExit,
    "stop": StopIteration,
}


async def awaited(completions, **columns):
    await asyncio.sleep(0)
    for text in completions:
        if text == "slow":
            await asyncio.sleep(1000)
        if text in ERRORS:
            raise ERRORS[text]
    return [1.0] * len(completions)


def plain(completions, **columns):
    for text in completions:
        if text in ERRORS:
            raise ERRORS[text]
    return [1.0] * len(completions)


@pytest.mark.parametrize("limit_s", [0.0, 30.0])
@pytest.mark.parametrize("error", ERRORS)
def test_what_an_async_function_raises_costs_its_own_completion(error, limit_s):
    scores = call_at_once("f", awaited, batch(["good", error, "good", error]), limit_s)
    assert scores.values == [1.0, None, 1.0, None]
    assert [(failure.place, failure.kind) for failure in scores.failures] == [(1, RAISED), (3, RAISED)]


def test_what_takes_too_long_costs_its_own_completion():
    scores = call_at_once("f", awaited, batch(["good", "slow", "cancelled"]), LIMIT_S)
    assert scores.values == [1.0, None, None]
    assert [failure.kind for failure in scores.failures] == [TIMEOUT, RAISED]


@pytest.mark.parametrize("error", ERRORS)
def test_what_a_function_raises_costs_its_own_completion(error):
    scores = call_each("f", plain, batch(["good", error, "good"]), lambda place: None)
    assert scores.values == [1.0, None, 1.0]


@pytest.mark.parametrize("function", [plain, awaited])
@pytest.mark.parametrize("error", ["cancelled", "exit", "odd", "generator"])
def test_in_the_trainers_process_only_an_interrupt_goes_on(function, error):
    assert call("f", function, batch([error])).failures[0].kind == RAISED
    with pytest.raises(KeyboardInterrupt):
        call("f", function, batch(["interrupt"]))


def test_a_forked_child_that_comes_back_does_not_go_on_with_the_others(tmp_path):
    """It would grade the rest a second time, and then be a second worker; or a second trainer."""
    calls = tmp_path / "calls"

    def forking(completions, **columns):
        with open(calls, "a") as file:
            file.write(f"{completions[0]}\n")
        if completions[0] == "fork":
            os.fork()  # both return
        return [float(len(completions))]

    async def awaiting(completions, **columns):
        return forking(completions)

    for run in (
        lambda: call_each("f", forking, batch(["a", "fork", "b", "c"]), lambda place: None),
        lambda: call_at_once("f", awaiting, batch(["fork", "b"]), 30.0),
        lambda: call("f", forking, batch(["fork"])),
    ):
        mine = os.getpid()
        calls.write_text("")
        try:
            scores = run()
        finally:
            if os.getpid() != mine:  # the fault that this is about; don't let it run the other tests too
                calls.open("a").write("a second process came back\n")
                os.kill(os.getpid(), signal.SIGKILL)
        _, status = os.waitpid(-1, 0)
        assert os.waitstatus_to_exitcode(status) == 1
        assert not scores.failures
        lines = calls.read_text().splitlines()
        assert len(lines) == len(set(lines)) == len(scores.values)


def test_the_story_of_a_failure_can_be_written_anywhere():
    def fails(completions, **columns):
        raise ValueError("lone \ud800")

    (failure,) = call("f", fails, batch(["a"])).failures
    assert "ValueError: lone \\ud800" in failure.why
    failure.why.encode()


def test_what_a_function_logs_is_made_plain():
    class Broken:
        def __float__(self):
            raise OSError

    def logs(completions, log_extra, log_metric, **columns):
        for value in (1.5, True, math.inf, math.nan, None, "text", Broken()):
            log_metric("figure \ud800", value)
        log_extra("column\udfff", ["\ud800 text"])
        log_metric("x" * 1000, 1)
        return [1.0]

    scores = call("f", logs, batch(["a"]))
    assert scores.values == [1.0]
    assert scores.extra == {"column\\udfff": ["\\ud800 text"]}
    values = [value for name, value in scores.metrics if name == "figure \\ud800"]
    assert values[:2] == [1.5, 1.0]
    assert all(map(math.isnan, values[2:]))
    assert len(values) == 7
    assert max(len(name) for name, _ in scores.metrics) == 200
