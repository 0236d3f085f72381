"""Word problems with numeric answers, in the shape of GSM8K: `openai/gsm8k` by name, or small problems of our own.

es-llm train --task gsm8k --dataset_name openai/gsm8k --dataset_config main
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from es_llm.data.messages import TextPrompts
from es_llm.errors import ConfigError
from es_llm.rewards.numbers import numeric_accuracy
from es_llm.rewards.reading import read_answer, written
from es_llm.tasks.base import Splits, Task, column, question
from es_llm.types import Row

INSTRUCTION = "Reason step by step, and end with a line that holds #### and then nothing but the number."
NAMES = ("Ada", "Ben", "Chen", "Dora", "Emil", "Fatma", "Goran", "Hana")
THINGS = ("apples", "books", "coins", "stamps", "marbles", "tickets")


def build(*, train_size: int = 200, eval_size: int = 200, seed: int = 0, data: Splits | None = None) -> Task:
    """The task.

    Args:
        train_size: own problems to train on.
        eval_size: own problems held out.
        seed: of the own problems.
        data: other rows, with a `question` or a ready `prompt`, and an `answer` that is a number or ends with `####`
            and the number.

    Raises:
        ConfigError: a negative size, or a row of `data` lacks something.
    """
    for option, value in (("train_size", train_size), ("eval_size", eval_size), ("seed", seed)):
        if value < 0:
            raise ConfigError(f"`{option}` must be >= 0, got {value}")

    def adapt(row: Mapping[str, Any]) -> Row:
        prompt: Any = row.get("prompt")
        if prompt is None:
            prompt = f"{question(row, 'question', 'problem')}\n{INSTRUCTION}\n"
        return {"prompt": prompt, "answer": written(column(row, "answer"))}

    own = Splits(train=_problems("train", train_size, seed), eval=_problems("eval", eval_size, seed))
    train, held_out = (data or own).adapted(adapt)
    return Task(
        name="gsm8k",
        train=train,
        eval=held_out,
        reward_funcs=(numeric_accuracy,),
        answer_of=_number,
        text_prompts=TextPrompts(questions=True),
    )


def _number(text: str) -> str | None:
    number = read_answer(text)
    return None if number is None else str(number)


def _problems(split: str, size: int, seed: int) -> list[Row]:
    """Distinct problems; those of different splits differ in their numbers."""
    stream = random.Random(f"es_llm/gsm8k/{split}/{seed}")
    rows: dict[str, Row] = {}
    while len(rows) < size:
        name, thing = NAMES[int(stream.random() * len(NAMES))], THINGS[int(stream.random() * len(THINGS))]
        boxes, each, gone = (2 + int(stream.random() * 30) for _ in range(3))
        gone = min(gone, boxes * each)
        if ((boxes + each + gone) % 5 == 0) != (split == "eval"):
            continue
        asked = (
            f"{name} has {boxes} boxes with {each} {thing} each and gives {gone} {thing} away. "
            f"How many {thing} does {name} have left?"
        )
        answer = f"{boxes} * {each} = {boxes * each}. {boxes * each} - {gone} = {boxes * each - gone}.\n"
        rows[asked] = {"question": asked, "answer": f"{answer}#### {boxes * each - gone}"}
    return list(rows.values())
