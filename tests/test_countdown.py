"""Countdown: the rewards follow the definition case by case; the data have the promised properties."""

from __future__ import annotations

import itertools
import time
from fractions import Fraction
from pathlib import Path

import pytest

from es_llm.errors import ConfigError
from es_llm.tasks import BUILTIN, load_task
from es_llm.tasks.countdown import PROMPT_WIDTH, build, is_held_out
from es_llm.tasks.countdown.reward import (
    compact_accuracy,
    compact_reward,
    countdown_accuracy,
    countdown_reward,
    format_reward,
)

CASES_FILE = Path(__file__).parent / "data" / "countdown_cases.txt"


def _cases():
    for number, line in enumerate(CASES_FILE.read_text("utf-8").splitlines(), start=1):
        if line.strip() and not line.startswith("#"):
            format_part, answer, numbers, target, completion = line.split("|", maxsplit=4)
            yield pytest.param(
                float(format_part),
                float(answer),
                [int(word) for word in numbers.split()],
                int(target),
                completion.removeprefix(" ").replace("\\n", "\n"),
                id=f"line{number}",
            )


@pytest.mark.parametrize(("format_part", "answer", "numbers", "target", "completion"), list(_cases()))
def test_paper_reward_case(format_part, answer, numbers, target, completion):
    columns = {"completions": [completion], "numbers": [numbers], "target": [target]}
    assert format_reward("<think>" + completion) == format_part
    assert countdown_accuracy(**columns) == [answer]
    assert countdown_reward(**columns) == [0.1 * format_part + answer]


def test_there_are_enough_cases():
    assert len(list(_cases())) >= 60


def test_rewards_take_every_column_of_the_contract():
    scores = countdown_reward(
        prompts=["<answer>1+2</answer>", "p"],
        completions=["</think>\n<answer>1+2</answer>", [{"role": "assistant", "content": "</think>"}]],
        completion_ids=[[1], [2]],
        numbers=[[1, 2], [3]],
        target=[3, 3],
        solution=["1+2", "3"],
    )
    assert scores == [1.1, 0.1 * 0.1]
    with pytest.raises(ValueError, match="must have the same length, got 1, 2 and 1"):
        countdown_reward(completions=[""], numbers=[[1], [2]], target=[1])
    with pytest.raises(TypeError, match="list of messages, got an item of type int"):
        countdown_reward(completions=[[3]], numbers=[[1]], target=[1])


def test_compact_shape_scores_the_whole_completion():
    completions = ["(3+5)*7", "3+5+7", "(3+5)*7 ", "(3+5)*7=56", "<answer>(3+5)*7</answer>", ""]
    size = len(completions)
    columns = {"prompts": ["p"] * size, "numbers": [[3, 5, 7]] * size, "target": [56] * size}
    assert compact_accuracy(completions=completions, **columns) == [1.0, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert compact_reward(completions=completions, **columns) == [1.1, 0.1, 1.1, 0.0, 0.0, 0.0]


def test_hostile_completions_are_scored_in_bounded_time():
    start = time.perf_counter()
    hostile = ["<answer>" * 100_000, "</answer>" * 100_000, "<think></think>" * 60_000 + "<answer>1"]
    hostile += [
        "</think>\n<answer>" + "(" * 500_000 + "</answer>",
        "<answer>" * 60_000 + "</answer>" * 60_000,
    ]
    scores = countdown_reward(completions=hostile, numbers=[[1]] * 5, target=[1] * 5)
    assert max(scores) <= 0.1
    assert time.perf_counter() - start < 2.0


@pytest.mark.parametrize("style", ["paper", "compact"])
def test_every_row_is_solvable_and_scored_so(style):
    task = build(style=style, train_size=400, eval_size=100, seed=3)
    for rows in (task.train, task.eval):
        wrap = "so</think>\n<answer>{}</answer>" if style == "paper" else "{}"
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        columns["prompts"] = columns.pop("prompt")
        columns["completions"] = [wrap.format(row["solution"]) for row in rows]
        assert set(task.metric_funcs["accuracy"](**columns)) == {1.0}
        assert set(task.reward_funcs[0](**columns)) == {1.1}


def test_targets_are_reachable_by_brute_force():
    for row in build(style="paper", train_size=12, eval_size=12).train:
        assert row["target"] in _reachable(tuple(map(Fraction, row["numbers"])))


def _reachable(values: tuple[Fraction, ...]) -> set[Fraction]:
    if len(values) == 1:
        return set(values)
    found: set[Fraction] = set()
    for i, j in itertools.permutations(range(len(values)), 2):
        rest = tuple(value for k, value in enumerate(values) if k not in (i, j))
        a, b = values[i], values[j]
        for merged in [a + b, a - b, a * b] + ([a / b] if b else []):
            found |= _reachable((*rest, merged))
    return found


def test_paper_style_has_the_papers_shape():
    task = build(style="paper", train_size=200, eval_size=100)
    for rows in (task.train, task.eval):
        assert sum(len(row["numbers"]) == 3 for row in rows) == len(rows) // 2
        assert sum(len(row["numbers"]) == 4 for row in rows) == len(rows) // 2
        for row in rows:
            assert row["prompt"].endswith("\n<think>")
            assert f"the numbers {', '.join(map(str, row['numbers']))} into" in row["prompt"]
            assert f"equals {row['target']}." in row["prompt"]
            assert type(row["target"]) is int
            assert 10 <= row["target"] <= 99
            assert all(1 <= number <= 99 for number in row["numbers"])


def test_compact_style_has_one_prompt_width():
    for row in build(style="compact", train_size=200, eval_size=100).train:
        assert len(row["prompt"]) == PROMPT_WIDTH
        assert row["numbers"] == sorted(row["numbers"])
        assert len(row["numbers"]) == 3
        assert 1 <= row["numbers"][0] <= row["numbers"][2] <= 20
        assert 0 <= row["target"] <= 200


def _keys(rows):
    return [(*sorted(row["numbers"]), row["target"]) for row in rows]


@pytest.mark.parametrize("style", ["paper", "compact"])
def test_problems_are_distinct_and_pools_apart_over_seeds(style):
    tasks = [build(style=style, train_size=2000, eval_size=500, seed=seed) for seed in (0, 1, 42)]
    for task in tasks:
        assert len(set(_keys(task.train))) == 2000
        assert len(set(_keys(task.eval))) == 500
        assert all(is_held_out(row["numbers"], row["target"]) for row in task.eval)
    every_train = {key for task in tasks for key in _keys(task.train)}
    every_eval = {key for task in tasks for key in _keys(task.eval)}
    assert not every_train & every_eval
    assert tasks[0].train != tasks[1].train
    assert tasks[0].eval != tasks[1].eval


def test_splits_depend_on_their_own_size_only():
    small, large = build(train_size=10, eval_size=20, seed=5), build(train_size=300, eval_size=40, seed=5)
    assert large.train[:10] == small.train
    assert large.eval[:20] == small.eval


def test_first_rows_are_pinned_for_every_python_version():
    task = build(style="compact", train_size=3, eval_size=2, seed=0)
    assert [(row["prompt"], row["solution"]) for row in task.train] == PINNED_COMPACT_TRAIN
    assert [(row["prompt"], row["solution"]) for row in task.eval] == PINNED_COMPACT_EVAL
    task = build(style="paper", train_size=2, eval_size=2, seed=0)
    rows = [*task.train, *task.eval]
    assert [(row["numbers"], row["target"], row["solution"]) for row in rows] == PINNED_PAPER


def test_twenty_thousand_rows_are_quick():
    start = time.perf_counter()
    assert len(build(style="paper", train_size=20_000, eval_size=500).train) == 20_000
    assert time.perf_counter() - start < 20.0


def test_too_many_problems_is_an_error_with_figures():
    with pytest.raises(ConfigError, match=r"`eval_size` 5000: style 'compact' gave only 1\d\d\d distinct"):
        build(style="compact", train_size=1, eval_size=5000)
    assert len(build(style="compact", train_size=18_000, eval_size=1000).train) == 18_000


def test_load_task_names_the_nearest():
    assert "countdown" in BUILTIN
    assert "base" not in BUILTIN
    assert len(load_task("countdown", style="compact", train_size=5, eval_size=5).eval) == 5
    with pytest.raises(ConfigError, match="unknown task 'countdwon'; did you mean 'countdown'"):
        load_task("countdwon")
    with pytest.raises(ConfigError, match="has no option 'train_sise'; did you mean 'train_size'"):
        load_task("countdown", train_sise=3)
    with pytest.raises(ConfigError, match="`style` must be one of compact, paper, got 'papre'"):
        load_task("countdown", style="papre")
    with pytest.raises(ConfigError, match="`eval_size` must be >= 0, got -1"):
        load_task("countdown", eval_size=-1)


PINNED_COMPACT_TRAIN = [
    ("13 16 17= 14:", "17-(16-13)"),
    (" 6 14 20=  1:", "(14+6)/20"),
    (" 5  6 19= 19:", "19/(6-5)"),
]
PINNED_COMPACT_EVAL = [(" 2 13 16= 31:", "16+13+2"), (" 3 15 19= 31:", "15-3+19")]
PINNED_PAPER = [
    ([28, 20, 28], 20, "28+20-28"),
    ([36, 1, 22, 39], 19, "(22+36)*1-39"),
    ([69, 37, 66], 40, "37-66+69"),
    ([68, 57, 10, 25], 26, "68-(10-25)-57"),
]
