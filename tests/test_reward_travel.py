"""Objects sent to the workers and back: functions, columns, printed text, logs, several completions at once."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from dataclasses import dataclass, replace

import pytest

from es_llm.errors import ConfigError, RewardError
from es_llm.rewards import inline, set_level
from es_llm.rewards.batch import DIED, RAISED, TIMEOUT
from es_llm.rewards.call import load_reward
from tests.hostile import batch, hostile, kinds, obey

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@dataclass
class Rich:
    """A value of a column that isn't of a plain type."""

    text: str


def test_columns_that_cannot_be_sent_are_reported(rewards):
    def rich(completions, value, **columns):
        return [float(len(each.text)) for each in value]

    made = rewards(rich)
    columns = {"value": [Rich("abc")]}
    plain = batch(["a"])
    assert made.rewards(replace(plain, columns=columns)) == [3.0]
    with pytest.raises(ConfigError, match="column 'value' of the data can't be sent"):
        made.submit(replace(plain, columns={"value": [threading.Lock()]}))


def test_a_batch_that_cannot_be_read_fails_and_the_next_one_succeeds(rewards):
    made = rewards(hostile)
    outcome = made.submit(replace(batch(["good"] * 2), columns={"number": [Unreadable(), Unreadable()]})).result()
    assert kinds(outcome, "hostile") == {0: RAISED, 1: RAISED}
    assert "the reward server can't read the batch" in outcome.results["hostile"].failures[0].reason
    assert made.rewards(batch(["good"] * 2)) == [0.0, 1.0]


class Unreadable:
    def __reduce__(self):
        return (int, ("no number",))


def test_nothing_waits_for_workers_that_were_ended(rewards):
    made = rewards(hostile, timeout_s=30)
    pending = made.submit(batch(["sleep"]))
    made.close()
    assert kinds(pending.result(), "hostile") == {0: DIED}


def test_text_that_functions_print_is_not_in_the_programs_output(rewards, capfd):
    def talkative(completions, **columns):
        print("hello from a reward", flush=True)
        return [1.0]

    assert rewards(talkative).rewards(batch(["a"])) == [1.0]
    printed = capfd.readouterr()
    assert "hello" not in printed.out
    assert "hello" in printed.err


def test_closures_lambdas_and_methods_are_sent(rewards):
    factor = 3.0

    def scaled(completions, **columns):
        return [factor * len(text) for text in completions]

    made = rewards(scaled, lambda completions, **columns: [1.0] * len(completions))
    assert made.names == ["scaled", "<lambda>"]
    assert made.rewards(batch(["a", "bb"])) == [4.0, 7.0]


def test_functions_that_cannot_be_sent_are_reported(rewards):
    lock = threading.Lock()

    def locked(completions, **columns):
        with lock:
            return [1.0] * len(completions)

    with pytest.raises(ConfigError, match=r"`locked` can't be sent .*pickle.*`reward_workers` 0"):
        rewards(locked)
    assert rewards(locked, workers=0).rewards(batch(["a"])) == [1.0]
    assert rewards(inline(locked)).rewards(batch(["a"])) == [1.0]


def test_functions_that_cannot_be_loaded_are_reported(rewards, tmp_path):
    path = tmp_path / "fragile.py"
    path.write_text("def reward(completions, **columns):\n    return [2.0] * len(completions)\n")
    function = load_reward(f"{path}:reward")
    made = rewards(function)
    assert made.rewards(batch(["a"])) == [2.0]
    path.write_text("raise OSError('gone')\n")
    with pytest.raises(RewardError, match=r"`reward` can't be loaded in the reward server: .*gone"):
        rewards(function).open()


def test_async_functions_wait_together(rewards):
    async def judge(completions, **columns):
        await asyncio.sleep(1000 if completions[0] == "sleep" else 0.2)
        if completions[0] == "raise":
            raise ValueError("no")
        return [1.0] * len(completions)

    start = time.monotonic()
    outcome = rewards(judge, timeout_s=1).submit(batch(["good"] * 40 + ["sleep", "raise"])).result()
    assert time.monotonic() - start < 10  # one after the other would take 40 x 0.2 s and more
    assert outcome.rewards == [1.0] * 40 + [None, None]
    assert kinds(outcome, "judge") == {40: TIMEOUT, 41: RAISED}


def test_an_async_function_that_blocks_fails_alone(rewards):
    async def blocking(completions, **columns):
        if completions[0] == "loop":
            obey("loop", 0)
        return [1.0] * len(completions)

    outcome = rewards(blocking).submit(batch(["good", "loop", "good"])).result()
    assert outcome.rewards == [1.0, None, 1.0]
    assert kinds(outcome, "blocking") == {1: TIMEOUT}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_set_level_reward_sees_all_completions(rewards, workers):
    @set_level
    def distinct(completions, number, **columns):
        assert len(number) == len(completions)
        return len(set(completions)) / len(completions)

    made = rewards(distinct, hostile, workers=workers, weights=[1.0, 0.5])
    assert made.set_level
    assert made.rewards(batch(["a", "b", "a", "b"])) == [0.5, 1.0, 1.5, 2.0]


@pytest.mark.parametrize("workers", [0, 2])
def test_logs_of_functions(rewards, workers):
    def talkative(completions, log_extra, log_metric, trainer_state, **columns):
        log_extra("length", [len(text) for text in completions])
        for text in completions:
            log_metric("mean_length", len(text))
        return [float(trainer_state.global_step)] * len(completions)

    result = rewards(talkative, workers=workers).submit(batch(["a", "bbb"])).result().results["talkative"]
    assert result.rewards == [0.0, 0.0]
    assert result.extra == {"length": [1, 3]}
    assert sorted(result.metrics) == [("mean_length", 1.0), ("mean_length", 3.0)]


def test_a_failure_of_one_function_fails_the_completion(rewards):
    def half(completions, **columns):
        return [None if text == "skip" else 1.0 for text in completions]

    made = rewards(half, hostile)
    outcome = made.submit(batch(["good", "skip", "raise"])).result()
    assert outcome.rewards == [1.0, 1.0, None]
    assert made.examples["hostile"].kind == RAISED
    assert "ValueError: no" in made.examples["hostile"].reason


@pytest.mark.parametrize("workers", [0, 2])
def test_functions_that_return_no_number_are_counted(rewards, workers):
    def silent(completions, **columns):
        return [None] * len(completions)

    def half(completions, number, **columns):
        return [None if each < 1 else 1.0 for each in number]

    made = rewards(silent, half, workers=workers)
    assert made.rewards(batch(["a"])) == [None]
    assert made.silent == {"silent", "half"}
    assert made.rewards(batch(["a", "b"])) == [None, 1.0]
    assert made.silent == {"silent"}
