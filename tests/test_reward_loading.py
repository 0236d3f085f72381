"""Reward functions from files: one module per file, in this process and in the reward server."""

from __future__ import annotations

import os

import pytest

from es_llm.errors import RewardError
from es_llm.plugins import reference_of
from es_llm.rewards.batch import Batch
from es_llm.rewards.call import load_reward
from es_llm.rewards.reward_set import RewardSet
from es_llm.rewards.workers.protocol import WorkerLimits

BATCH = Batch.of([{"prompt": "p"}], ["text"], [[1]])
FILE = """
import threading

LOCK = threading.Lock()  # can't be pickled
CALLS = []

def a(completions, **columns):
    with LOCK:
        CALLS.append("a")
        return [float(len(CALLS))] * len(completions)

def b(completions, **columns):
    with LOCK:
        CALLS.append("b")
        return [10.0 * len(CALLS)] * len(completions)

def made():
    def inner(completions, **columns):
        with LOCK:
            return [0.5] * len(completions)
    return inner

c = made()

class Scorer:
    __name__ = "scorer"

    def __init__(self):
        self.lock = LOCK

    def __call__(self, completions, **columns):
        with self.lock:
            return [0.25] * len(completions)

d = Scorer()
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "rw.py"
    file.write_text(FILE)
    return file


def first_rewards(functions, workers):
    rewards = RewardSet(functions, limits=WorkerLimits(workers=workers, timeout_s=60))
    try:
        results = rewards.submit(BATCH).result().results
    finally:
        rewards.close()
    assert not [failure for result in results.values() for failure in result.failures]
    return [result.rewards[0] for result in results.values()]


def test_several_functions_of_a_file_whose_globals_cannot_be_pickled(path):
    functions = [load_reward(f"{path}:{name}") for name in "abcd"]
    assert sorted(first_rewards(functions, 1)[2:]) == [0.25, 0.5]
    assert functions[0].__globals__ is functions[1].__globals__


def test_the_globals_of_a_file_exist_once(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    functions = [load_reward(f"{path}:a"), load_reward("rw.py:b"), load_reward("../" + path.parent.name + "/rw.py:a")]
    assert first_rewards(functions, 0) == [1.0, 20.0, 3.0]


def test_files_of_one_name_in_two_directories(tmp_path):
    functions = []
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        file = tmp_path / str(number) / "rw.py"
        file.write_text(FILE + f"\ndef e(completions, **columns):\n    with LOCK:\n        return [{number}.0]\n")
        functions.append(load_reward(f"{file}:e"))
    assert first_rewards(functions, 0) == first_rewards(functions, 1) == [1.0, 2.0]
    assert all(reference_of(function) for function in functions)


def test_a_file_that_was_changed_is_loaded_again(path):
    before = load_reward(f"{path}:c")
    path.write_text(FILE + "\n\nc = lambda completions, **columns: [7.0]\n")
    assert first_rewards([load_reward(f"{path}:c")], 0) == [7.0]
    assert reference_of(before) is None


def test_a_file_without_a_function_asks_for_one(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    for reference in ("rw.py", str(path), "none.py"):
        with pytest.raises(RewardError, match=r"expected the name of one of its functions too, such as .*\.py:"):
            load_reward(reference)


def test_a_file_that_fails_is_tried_again(path):
    path.write_text("raise ValueError('broken')\n")
    with pytest.raises(RewardError, match="fails to import: ValueError"):
        load_reward(f"{path}:a")
    path.write_text(FILE)
    assert load_reward(f"{path}:a").__name__ == "a"


MOVES = """
import os
os.chdir({elsewhere!r})
from pathlib import Path

def a(completions, **columns):
    os.chdir({elsewhere!r})
    return [float(len(text)) for text in completions]

def b(completions, **columns):
    return [float(os.getcwd() == {here!r})] * len(completions)
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_changes_the_directory_does_not_change_it_for_the_run(tmp_path, monkeypatch, workers):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for directory in (here, elsewhere, here / "package"):
        directory.mkdir()
    monkeypatch.chdir(here)
    (here / "moves.py").write_text(MOVES.format(elsewhere=str(elsewhere), here=str(here)))
    (here / "package" / "moving.py").write_text(MOVES.format(elsewhere=str(elsewhere), here=str(here)))
    monkeypatch.syspath_prepend("package")  # a relative path: imports of the file are found only from this directory
    functions = [load_reward("moves.py:b"), load_reward("moving.a"), load_reward("moves.py:a"), load_reward("moving.b")]
    assert os.getcwd() == str(here)
    assert first_rewards(functions, workers)[1:3] == [4.0, 4.0]
    assert first_rewards(functions[::3], workers) == [1.0, 1.0]
    assert os.getcwd() == str(here)
    monkeypatch.chdir(elsewhere)
    assert first_rewards([functions[2]], workers) == [4.0], "a relative path keeps its meaning"
    with pytest.raises(RewardError, match=r"no file 'moves\.py' in '.*elsewhere'"):
        load_reward("moves.py:a")


def test_a_directory_that_was_deleted(tmp_path, monkeypatch, path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert load_reward(f"{path}:a").__name__ == "a"
