"""Hostile rewards through `ESTrainer.train`: the run continues, counts the failures, and leaves no process behind."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest

from es_llm import ESConfig, ESTrainer
from es_llm.comm import SingleMailbox
from es_llm.rewards import inline
from es_llm.rewards.workers.system import descendants
from es_llm.team import Team
from tests.tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

MEMBERS, STEPS = 4, 2
KINDS = {
    "loop": "timeout",
    "exit": "died",
    "raise": "raised",
    "allocate": "raised",
    "nan": "invalid",
    "text": "invalid",
    "none": None,
    "fine": None,
}
ROWS = [{"prompt": kind, "kind": kind, "number": float(number)} for number, kind in enumerate(KINDS)]


def hostile(completions, kind, number, **columns):
    """Do what the row orders; if it orders nothing, return the row's number."""
    for what in kind:
        if what == "loop":
            while True:
                pass
        if what == "exit":
            os._exit(3)
        if what == "raise":
            raise ValueError("on purpose")
        if what == "allocate":
            bytearray(10 << 30)
    odd = {"nan": float("nan"), "text": "high", "none": None}
    return [odd.get(what, where) for what, where in zip(kind, number, strict=True)]


def dense(completions, **columns):
    return [sum(map(ord, text)) % 97 / 97 for text in completions]


@inline
def dense_inline(completions, **columns):
    return dense(completions)


@pytest.fixture
def no_process_left():
    """No process that the test started lives at its end."""
    before = set(descendants(os.getpid()))
    yield
    for _ in range(400):
        left = set(descendants(os.getpid())) - before
        if not left:
            return
        time.sleep(0.05)
    pytest.fail(f"processes are left: {[Path(f'/proc/{pid}/cmdline').read_bytes() for pid in left]}")


def train(directory, functions, rows=ROWS, **options):
    """The metrics of the iterations, and whether the weights moved."""
    settings = {
        "population_size": MEMBERS, "sigma": 0.05, "learning_rate": 0.05, "max_steps": STEPS, "reward_workers": 2,
        "max_completion_length": 6, "prompts_per_iteration": len(rows), "prompts_per_unit": 4, "reward_timeout_s": 1.0,
        "reward_memory_mb": 512, "output_dir": str(directory / "run"), **options,
    }  # fmt: skip
    trainer = ESTrainer(
        tiny_model(), functions, ESConfig(**settings), rows, processing_class=tiny_tokenizer(),
        team=Team(SingleMailbox()),
    )  # fmt: skip
    try:
        before = trainer.run.weights.sha256()
        output = trainer.train()
    finally:
        trainer.run.rewards.close()
    assert output.global_step == settings["max_steps"]
    lines = [json.loads(line) for line in (directory / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "reward" in line], output.metrics["weights_sha256"] != before


def failures(line, name):
    prefix = f"rewards/{name}/failures"
    return {key.removeprefix(prefix).lstrip("/"): count for key, count in line.items() if key.startswith(prefix)}


@pytest.mark.usefixtures("no_process_left")
def test_a_run_with_hostile_rewards_goes_on(tmp_path):
    """A failure affects its own row only: the other rows, and the next iteration, have right rewards."""
    lines, _ = train(tmp_path, [hostile, dense])
    failed = [kind for kind in KINDS.values() if kind]
    for line in lines:
        counted = failures(line, "hostile")
        assert counted == {"": MEMBERS * len(failed), **{kind: MEMBERS * failed.count(kind) for kind in failed}}
        assert failures(line, "dense") == {}
        assert line["rewards/failures"] == MEMBERS * len(failed)
        assert line["rewards/hostile/mean"] == ROWS[-1]["number"], "the row that does nothing"
        assert 0 < line["rewards/dense/mean"] < 1
    assert len(lines) == STEPS


@pytest.mark.usefixtures("no_process_left")
@pytest.mark.parametrize("policy", ["worst", "zero", "drop_prompt"])
def test_weights_move_by_the_remaining_rewards(tmp_path, policy):
    def partly(completions, number, **columns):
        if number[0] == 0:
            os._exit(1)
        return dense(completions)

    lines, moved = train(tmp_path, [partly], ROWS[:4], failure_policy=policy, max_steps=1)
    assert failures(lines[0], "partly") == {"": MEMBERS, "died": MEMBERS}
    assert lines[0]["update/norm"] > 0
    assert moved


@pytest.mark.usefixtures("no_process_left")
def test_none_for_all_moves_nothing_and_is_no_failure_of_the_function(tmp_path):
    def nothing(completions, **columns):
        return [None] * len(completions)

    lines, moved = train(tmp_path, [nothing], ROWS[:4])
    for line in lines:
        assert failures(line, "nothing") == {}
        assert "rewards/nothing/mean" not in line
        assert line["rewards/failures"] == MEMBERS * 4, "there is no reward"
        assert line["update/norm"] == 0
    assert not moved


@pytest.mark.usefixtures("no_process_left")
def test_the_option_sets_the_time_limit(tmp_path):
    def slow(completions, **columns):
        time.sleep(1.0)
        return dense(completions)

    options = {"max_steps": 1, "population_size": 2}
    for index, (limit_s, failed) in enumerate([(0.2, {"": 4, "timeout": 4}), (0.0, {}), (60.0, {})]):
        lines, _ = train(tmp_path / str(index), [slow], ROWS[:2], reward_timeout_s=limit_s, **options)
        assert failures(lines[0], "slow") == failed


@pytest.mark.usefixtures("no_process_left")
def test_the_option_sets_the_memory_limit(tmp_path):
    def large(completions, **columns):
        return [len(bytearray(300 << 20)) / 1e9] * len(completions)

    options = {"max_steps": 1, "population_size": 2, "reward_timeout_s": 60.0}
    for index, (limit_mb, failed) in enumerate([(100, {"": 4, "raised": 4}), (2000, {}), (0, {})]):
        lines, _ = train(tmp_path / str(index), [large], ROWS[:2], reward_memory_mb=limit_mb, **options)
        assert failures(lines[0], "large") == failed


@pytest.mark.usefixtures("no_process_left")
def test_the_wait_ratio_is_the_share_of_time_spent_waiting_for_rewards(tmp_path):
    """Rewards that take much longer than the completions, and rewards that take no time."""

    def slow(completions, **columns):
        time.sleep(0.5)
        return dense(completions)

    ratios = []
    for index, function in enumerate([slow, dense_inline]):
        lines, _ = train(tmp_path / str(index), [function], ROWS[:4], reward_timeout_s=60.0)
        ratios.append([line["rewards/wait_ratio"] for line in lines])
    assert all(0 <= ratio <= 1 for each in ratios for ratio in each)
    assert min(ratios[0]) > 10 * max(ratios[1])


@pytest.mark.usefixtures("no_process_left")
def test_without_workers_there_are_no_limits(tmp_path):
    def counts(completions, **columns):
        return [float(os.getpid())] * len(completions)

    for index, (workers, here) in enumerate([(0, True), (1, False)]):
        lines, _ = train(tmp_path / str(index), [counts], ROWS[:2], max_steps=1, reward_workers=workers)
        assert (lines[0]["rewards/counts/mean"] == os.getpid()) is here
