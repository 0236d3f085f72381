"""Any data set of the library reasoning-gym: `--task reasoning_gym:mini_sudoku`, a hundred more by its names.

The library generates the problems and scores the answers; options of its generators are task options.
"""

from __future__ import annotations

import json
from typing import Any

from es_llm.data.messages import TextPrompts
from es_llm.errors import ConfigError, RewardError
from es_llm.rewards.text import completion_text
from es_llm.tasks.base import Splits, Task
from es_llm.types import Row

INSTRUCTION = "Write your final answer between <answer> and </answer>."


def build(
    *,
    dataset: str = "",
    train_size: int = 800,
    eval_size: int = 200,
    seed: int = 0,
    data: Splits | None = None,
    **generator: Any,
) -> Task:
    """The task.

    Args:
        dataset: name of the generator.
        train_size: problems to train on.
        eval_size: problems held out, from another seed.
        seed: of the problems; the held-out ones have `seed` + 2**20.
        data: not supported; the problems are generated.
        generator: options of the generator.

    Raises:
        ConfigError: the library is missing, or has no such data set or option.
    """
    if data is not None:
        raise ConfigError("task `reasoning_gym` generates its problems; leave `dataset_name` out")
    create = _library()
    try:
        sets = [
            create(dataset, size=size, seed=seed + offset, **generator)
            for size, offset in ((train_size, 0), (eval_size, 1 << 20))
            if size
        ]
    except Exception as error:  # the library raises many classes
        raise ConfigError(f"task `reasoning_gym:{dataset}` can't be made: {error}") from error
    rows = [[_row(dataset, item) for item in made] for made in sets]
    train = rows.pop(0) if train_size else []
    return Task(
        name=f"reasoning_gym:{dataset}",
        train=train,
        eval=rows[0] if rows else [],
        reward_funcs=(reasoning_gym_score,),
        answer_of=tagged_answer,
        text_prompts=TextPrompts(questions=True),
    )


def reasoning_gym_score(completions: list[Any], entry: list[str], dataset: list[str], **columns: Any) -> list[float]:
    """The library's own score of the text between the last answer tags (else of the whole completion), in [0, 1].

    Raises:
        RewardError: the library is missing.
    """
    return [
        float(_scorer(name).score_answer(answer=tagged_answer(completion_text(completion)), entry=json.loads(text)))
        for completion, text, name in zip(completions, entry, dataset, strict=True)
    ]


def tagged_answer(text: str) -> str:
    """The text between the last answer tags, else all of it."""
    if "</answer>" in text:
        text = text.rpartition("</answer>")[0].rpartition("<answer>")[2]
    return text.strip()


_SCORERS: dict[str, Any] = {}


def _scorer(name: str) -> Any:
    """A data set of this name; its problems don't matter, only its rules."""
    if name not in _SCORERS:
        try:
            _SCORERS[name] = _library()(name, size=1, seed=0)
        except ConfigError as error:
            raise RewardError(str(error)) from error
    return _SCORERS[name]


def _row(dataset: str, item: dict[str, Any]) -> Row:
    prompt = f"{item['question'].rstrip()}\n{INSTRUCTION}\n"
    entry = {name: item[name] for name in ("question", "answer", "metadata")}
    return {"prompt": prompt, "entry": json.dumps(entry, default=str), "dataset": dataset}


def _library() -> Any:
    try:
        import reasoning_gym
    except ImportError as error:
        raise ConfigError(
            f"task `reasoning_gym` needs reasoning-gym ({error}); `pip install 'es_llm[tasks]'`"
        ) from error
    return reasoning_gym.create_dataset
