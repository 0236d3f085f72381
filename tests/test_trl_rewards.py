"""All reward functions that the installed TRL ships, in killable workers, on the completions of a real model."""

from __future__ import annotations

import ast
import functools
import json

import pytest
import trl.rewards
from pyarrow import parquet

from es_llm import ESConfig, ESTrainer
from es_llm.comm import SingleMailbox
from es_llm.team import Team
from tests.trl_scripts import MODEL

FACTORIES = {
    "get_cosine_scaled_reward": {"max_len": 24},
    "get_repetition_penalty_reward": {"ngram_size": 2, "max_penalty": -1.0},
    "get_soft_overlong_punishment": {"max_completion_len": 18, "soft_punish_cache": 12},
}
ASKED = {"role": "user", "content": r"Write \boxed{4}"}
ROWS = [
    {"prompt": [ASKED, {"role": "assistant", "content": r"\boxed{4}"}, ASKED], "solution": "$4$"},
    {"prompt": [{"role": "user", "content": "What is the capital of France?"}], "solution": "$4$"},
    {"prompt": [{"role": "user", "content": "Say hello ten times."}], "solution": "no mathematics at all"},
]


def shipped():
    """Each exported reward function of `trl.rewards`, built by its factory if it has one."""
    names = trl.rewards._import_structure if hasattr(trl.rewards, "_import_structure") else {}
    exported = [name for group in names.values() for name in group] or list(trl.rewards.__all__)
    functions = [getattr(trl.rewards, name) for name in sorted(exported)]
    return [
        function(**FACTORIES[function.__name__]) if function.__name__.startswith("get_") else function
        for function in functions
    ]


class Longest:
    """A reward with state, as users write it: an object with a name."""

    __name__ = "longest"

    def __init__(self, cap):
        self.cap = cap

    def __call__(self, completions, **columns):
        return [min(self.cap, len(completion[0]["content"])) / self.cap for completion in completions]


def at_most(limit):
    def close_to_limit(completion_ids, **columns):
        return [float(len(ids) <= limit) for ids in completion_ids]

    return close_to_limit


def of_a_word(completions, word, log_extra=None, **columns):
    return [float(word in completion[0]["content"]) for completion in completions]


def record(completion_ids, log_extra, **columns):
    """Records the arguments that the other functions received besides the text."""
    log_extra("ids", [repr(list(ids)) for ids in completion_ids])
    return [None] * len(completion_ids)


@pytest.mark.smollm2
def test_the_values_are_those_of_a_direct_call(tmp_path):
    functions = [*shipped(), Longest(40), at_most(6), functools.partial(of_a_word, word="a"), lambda completions, **_: [
        float(completion[0]["content"].isascii()) for completion in completions
    ]]  # fmt: skip
    assert len(functions) >= 6 + 4
    options = ESConfig(
        population_size=2, max_steps=1, prompts_per_iteration=3, max_completion_length=18, log_completions=True,
        eval_on_start=False, reward_workers=1, output_dir=str(tmp_path / "run"), reward_timeout_s=60,
    )  # fmt: skip
    trainer = ESTrainer(MODEL, [*functions, record], options, ROWS, team=Team(SingleMailbox()))
    trainer.train()
    trainer.end()
    (file,) = (tmp_path / "run" / "completions").iterdir()
    rows = parquet.read_table(file).to_pylist()
    assert len(rows) == 6
    solutions = {json.dumps(row["prompt"]): row["solution"] for row in ROWS}
    seen = {
        "prompts": [json.loads(row["prompt"]) for row in rows],
        "completions": [[{"role": "assistant", "content": row["completion"]}] for row in rows],
        "completion_ids": [ast.literal_eval(row["ids"]) for row in rows],
        "solution": [solutions[row["prompt"]] for row in rows],
    }
    names = trainer.run.rewards.names[:-1]
    values = {name: function(**seen) for name, function in zip(names, functions, strict=True)}
    assert {name: [row[name] for row in rows] for name in names} == values
    differing = {name for name in names if len(set(values[name])) > 1}
    assert {"accuracy_reward", "cosine_scaled_reward", "soft_overlong_punishment_reward"} <= differing, values
    assert None in values["accuracy_reward"]
    assert 1.0 in values["accuracy_reward"]
    (line,) = [line for line in trainer.state.log_history if "reward" in line]
    assert line["rewards/failures"] == 0
