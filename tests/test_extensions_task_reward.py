"""A user's task and reward, each in one file outside the package, run from the command line."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from es_llm.errors import ConfigError, RewardError
from es_llm.rewards.call import load_reward
from es_llm.rewards.reward_set import RewardSet
from es_llm.rewards.workers.protocol import WorkerLimits
from es_llm.tasks import load_task
from tests.commands import base_sha256, es_llm, result
from tests.hostile import batch

TASK = '''
"""Write many digits."""

from es_llm.tasks import Task

def digits(completions, wanted, **columns):
    return [sum(map(str.isdigit, text)) / number for text, number in zip(completions, wanted)]

def build(*, size: int = 3, wanted: int = 4) -> Task:
    rows = [{"prompt": f"{number:2d}  1  2=  3:", "wanted": wanted} for number in range(size)]
    return Task(name="digits", train=rows, eval=rows[:2], reward_funcs=(digits,))

ready = build(size=5)

def refused():
    return "no task"

def closed(*, size: int = 3):
    weight = 2.0
    def heavy(completions, wanted, **columns):
        return [weight * reward for reward in digits(completions, wanted)]
    return Task(name="closed", train=ready.train, eval=[], reward_funcs=(heavy,))
'''
REWARD = '''
"""Reward short completions."""

def brevity(completions, **columns):
    return [1 / (1 + len(text.rstrip("0"))) for text in completions]
'''
RUN = [
    "--population_size", "4", "--max_steps", "2", "--prompts_per_iteration", "3", "--max_completion_length", "6",
    "--sigma", "0.05", "--learning_rate", "0.02",
]  # fmt: skip


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A directory on the path that holds an installed package with a task and a reward."""
    site = tmp_path / "site"
    (site / "own-1.0.dist-info").mkdir(parents=True)
    (site / "own_task.py").write_text(TASK)
    (site / "own_reward.py").write_text(REWARD)
    (site / "own-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (site / "own-1.0.dist-info" / "entry_points.txt").write_text(
        "[es_llm.tasks]\nown-digits = own_task:build\nmath = own_task:build\n\n"
        "[es_llm.rewards]\nown-brevity = own_reward:brevity\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(site)
    yield site
    for name in ("own_task", "own_reward"):
        sys.modules.pop(name, None)


def trained(directory, *words):
    process = es_llm("train", *words, *RUN, "--output_dir", str(directory))
    assert process.returncode == 0, process.stderr
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert result(directory)["weights_sha256"] != base_sha256(directory)
    return [line for line in lines if "reward" in line]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["{site}/own_task.py", "own-digits"], ids=["path", "entry point"])
def test_a_task_from_the_command_line(installed, tmp_path, name):
    name = name.format(site=installed)
    lines = trained(tmp_path / "run", "--task", name, "--task_args", "size=6", "wanted=2")
    means = [line["rewards/digits/mean"] for line in lines]
    assert means == pytest.approx([line["reward"] for line in lines], rel=1e-5)
    assert all(reward > 0 for reward in means)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["task"] == name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["{site}/own_reward.py:brevity", "own-brevity"], ids=["path", "entry point"])
def test_a_reward_from_the_command_line(installed, tmp_path, name):
    task = ["--task", "countdown", "--task_args", "style=compact", "train_size=6", "eval_size=2"]
    lines = trained(tmp_path / "run", *task, "--reward_funcs", name.format(site=installed))
    means = [line["rewards/brevity/mean"] for line in lines]
    assert means == pytest.approx([line["reward"] for line in lines], rel=1e-5)  # means are sums of 2^-20
    assert all(0 < reward <= 1 for reward in means)


def test_names_of_tasks(installed, monkeypatch):
    monkeypatch.chdir(installed)
    assert load_task("own_task.py", size=2).name == "digits"
    assert load_task("own_task:build").name == "digits"
    assert load_task("own_task.build").name == "digits"
    assert len(list(load_task("own_task.py:ready").train)) == 5
    assert load_task("math", train_size=1, eval_size=0).name == "math", "a built-in name comes first"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("own-digit", {}, r"unknown task 'own-digit'; did you mean 'own-digits'\? \(known: arc, .*own-digits.*file"),
        ("none.py", {}, r"task 'none\.py': no file 'none\.py' in '.*site'"),
        ("none.py:build", {}, r"task 'none\.py:build': no file"),
        ("own_task.py:bild", {}, r"task 'own_task\.py:bild': .*own_task\.py has no 'bild'; did you mean 'build'"),
        ("own_reward.py", {}, r"own_reward\.py has no 'build'"),
        ("no_such.module", {}, r"task 'no_such\.module': module 'no_such' fails to import: ModuleNotFoundError"),
        ("own_task.py:refused", {}, r"must return a `Task`, got 'no task' \(str\)"),
        ("own_task.py:ready", {"size": 1}, r"is a `Task` without options, got 'size'"),
        ("own_task.py", {"sise": 1}, r"has no option 'sise'; did you mean 'size'\? \(known: size, wanted\)"),
        ("own_task.py", {"size": "x"}, r"task `own_task\.py`: `size` must be an integer, got 'x'"),
        ("own_task.py", {"data": []}, r"has its own data; leave `dataset_name` out"),
    ],
)  # fmt: skip
def test_an_object_that_is_no_task_is_reported(installed, monkeypatch, name, options, message):
    monkeypatch.chdir(installed)
    with pytest.raises(ConfigError, match=message):
        load_task(name, **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own-brevty", r"unknown reward 'own-brevty'; did you mean 'own-brevity'\? \(known: own-brevity; or file"),
        ("own_reward.py", r"reward 'own_reward\.py': expected the name of one of its functions too"),
        ("own_reward.py:__doc__", r"must be callable, got 'Reward short"),
    ],
)  # fmt: skip
def test_an_object_that_is_no_reward_is_reported(installed, monkeypatch, name, message):
    monkeypatch.chdir(installed)
    with pytest.raises(RewardError, match=message):
        load_reward(name)


def test_the_example_of_the_documentation(tmp_path):
    text = (Path(__file__).parent.parent / "docs" / "rewards.md").read_text()
    example = text.partition("```python\n# my_task.py")[2].partition("```")[0]
    (tmp_path / "my_task.py").write_text(f"#{example}")
    task = load_task(f"{tmp_path}/my_task.py", size=5)
    assert task.name == "digits"
    assert len(list(task.train)) == 5
    assert task.reward_funcs[0](completions=["12a"], wanted=[4]) == [0.5]


def test_two_packages_with_one_name(installed, tmp_path, monkeypatch):
    other = tmp_path / "other" / "rival-2.0.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: rival\nVersion: 2.0\n")
    (other / "entry_points.txt").write_text("[es_llm.tasks]\nown-digits = rival:build\n")
    monkeypatch.syspath_prepend(other.parent)
    with pytest.raises(ConfigError, match="the installed packages own and rival both have an entry point of this name"):
        load_task("own-digits")


def test_a_reward_that_a_task_creates_reaches_the_workers_with_its_globals(installed):
    (function,) = load_task(f"{installed}/own_task.py:closed").reward_funcs
    rewards = RewardSet([function], limits=WorkerLimits(workers=1, timeout_s=60))
    texts = batch(["12a", "b"])
    texts = replace(texts, columns={"wanted": [2, 2]})
    try:
        assert rewards.rewards(texts) == [2.0, 0.0]
    finally:
        rewards.close()
