"""One call of a reward function. An error, a fork or a log affects its own completion only."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import time

import pytest

from es_llm.rewards.batch import RAISED, TIMEOUT, Batch
from es_llm.rewards.call import call, call_concurrently, call_each
from es_llm.rewards.loop import Loop

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
def test_an_error_of_an_async_function_fails_its_completion_only(error, limit_s):
    result = call_concurrently("f", awaited, batch(["good", error, "good", error]), limit_s)
    assert result.rewards == [1.0, None, 1.0, None]
    assert [(failure.index, failure.kind) for failure in result.failures] == [(1, RAISED), (3, RAISED)]


def test_a_call_that_takes_too_long_fails_its_completion_only():
    result = call_concurrently("f", awaited, batch(["good", "slow", "cancelled"]), LIMIT_S)
    assert result.rewards == [1.0, None, None]
    assert [failure.kind for failure in result.failures] == [TIMEOUT, RAISED]


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_of_a_function_fails_its_completion_only(error):
    result = call_each("f", plain, batch(["good", error, "good"]), lambda index: None)
    assert result.rewards == [1.0, None, 1.0]


@pytest.mark.parametrize("function", [plain, awaited])
@pytest.mark.parametrize("error", ["cancelled", "exit", "odd", "generator"])
def test_in_the_trainers_process_only_an_interrupt_is_raised(function, error):
    assert call("f", function, batch([error])).failures[0].kind == RAISED
    with pytest.raises(KeyboardInterrupt):
        call("f", function, batch(["interrupt"]))


def test_a_forked_child_that_returns_does_no_further_work(tmp_path):
    """Otherwise the child would call the function for the other completions again, and then act as a second worker or
    trainer."""
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
        lambda: call_each("f", forking, batch(["a", "fork", "b", "c"]), lambda index: None),
        lambda: call_concurrently("f", awaiting, batch(["fork", "b"]), 30.0),
        lambda: call("f", forking, batch(["fork"])),
    ):
        mine = os.getpid()
        calls.write_text("")
        try:
            result = run()
        finally:
            if os.getpid() != mine:  # the fault under test; this child must not run the other tests
                calls.open("a").write("a second process came back\n")
                os.kill(os.getpid(), signal.SIGKILL)
        _, status = os.waitpid(-1, 0)
        assert os.waitstatus_to_exitcode(status) == 1
        assert not result.failures
        lines = calls.read_text().splitlines()
        assert len(lines) == len(set(lines)) == len(result.rewards)


def test_the_reason_of_a_failure_can_be_written_anywhere():
    def fails(completions, **columns):
        raise ValueError("lone \ud800")

    (failure,) = call("f", fails, batch(["a"])).failures
    assert "ValueError: lone \\ud800" in failure.reason
    failure.reason.encode()


def test_logged_values_become_plain():
    class Broken:
        def __float__(self):
            raise OSError

    def logs(completions, log_extra, log_metric, **columns):
        for value in (1.5, True, math.inf, math.nan, None, "text", Broken()):
            log_metric("figure \ud800", value)
        log_extra("column\udfff", ["\ud800 text"])
        log_metric("x" * 1000, 1)
        return [1.0]

    result = call("f", logs, batch(["a"]))
    assert result.rewards == [1.0]
    assert result.extra == {"column\\udfff": ["\\ud800 text"]}
    values = [value for name, value in result.metrics if name == "figure \\ud800"]
    assert values[:2] == [1.5, 1.0]
    assert all(map(math.isnan, values[2:]))
    assert len(values) == 7
    assert max(len(name) for name, _ in result.metrics) == 200


def queued(hanging=(), block=None):
    """An async reward that handles one completion at a time, in 0.2 s. Those in `hanging` never end.

    The completion `block` blocks the loop.
    """
    semaphore = []

    async def judge(completions, **columns):
        if completions[0] in hanging:
            await asyncio.sleep(1000)
        if not semaphore:
            semaphore.append(asyncio.Semaphore(1))
        async with semaphore[0]:
            if completions[0] == block:
                time.sleep(1000)
            await asyncio.sleep(0.2)
        return [float(completions[0])]

    return judge


def test_a_queue_that_moves_never_times_out():
    ends = []
    result = call_concurrently(
        "f", queued(), batch([str(index) for index in range(8)]), 0.6, ended=lambda: ends.append(1)
    )
    assert result.rewards == [float(index) for index in range(8)]
    assert not result.failures
    assert len(ends) == 8


@pytest.mark.parametrize("hanging", [{"0"}, {"3"}, {"2", "7"}], ids=["first", "middle", "two"])
def test_a_hanging_call_beside_a_queue_times_out_after_the_last_call(hanging):
    begin = time.monotonic()
    result = call_concurrently("f", queued(hanging), batch([str(index) for index in range(8)]), 0.6)
    assert 0.2 * (8 - len(hanging)) + 0.6 <= time.monotonic() - begin + 0.05
    assert time.monotonic() - begin < 5.0
    assert result.rewards == [None if str(index) in hanging else float(index) for index in range(8)]
    assert {failure.kind for failure in result.failures} == {TIMEOUT}


def test_a_call_that_ends_after_its_deadline_renews_no_deadline():
    """At that time the deadline may belong to the whole answer, or to another batch."""
    ends, loop = [], Loop()

    async def judge(completions, **columns):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(1000 if completions[0] == "late" else 0)
        return [1.0]

    result = call_concurrently("f", judge, batch(["a", "late", "b"]), 0.3, loop, ended=lambda: ends.append(1))
    loop.close()
    assert result.rewards == [1.0, None, 1.0]
    assert len(ends) == 2


@pytest.mark.parametrize("limit_s", [0.0, 0.5])
def test_no_completions_have_no_scores(limit_s):
    assert call_concurrently("f", queued(), batch([]), limit_s).rewards == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_whose_queue_moves_is_not_killed(rewards, workers, tmp_path):
    """Ten calls of 0.5 s take longer than the limit and the server's grace together."""

    semaphore = []

    async def judge(completions, **columns):
        with (tmp_path / "calls").open("a") as calls:
            calls.write(completions[0])
        if not semaphore:
            semaphore.append(asyncio.Semaphore(1))
        async with semaphore[0]:
            await asyncio.sleep(0.5)
        return [1.0]

    assert rewards(judge, workers=workers, timeout_s=1.5).rewards(batch(["a"] * 10)) == [1.0] * 10
    assert (tmp_path / "calls").read_text() == "a" * 10, "each is called once"


def test_a_queue_whose_loop_is_blocked_is_killed(rewards):
    made = rewards(queued(block="3"), workers=1, timeout_s=1.0)
    result = made.submit(batch(["0", "1", "2", "3", "4"])).result().results["judge"]
    assert result.rewards == [0.0, 1.0, 2.0, None, 4.0]
    assert [failure.kind for failure in result.failures] == [TIMEOUT]
