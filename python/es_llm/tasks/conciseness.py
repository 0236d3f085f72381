"""Conciseness: short questions, each with its shortest right answer (Qiu et al., arXiv 2509.24372, section 4).

Two questions to train on and eight held out, as in the paper; the questions are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from es_llm.data.messages import TextPrompts
from es_llm.rewards.conciseness import conciseness_reward, rescaled_conciseness
from es_llm.rewards.reading import written
from es_llm.tasks.base import Splits, Task, column
from es_llm.types import Row

TRAIN = (("What is the colour of a ripe banana?", "Yellow"), ("How many legs does a spider have?", "8"))
EVAL = (
    ("Which planet do we live on?", "Earth"),
    ("What is 7 times 6?", "42"),
    ("Which gas do plants take in from the air to grow?", "CO2"),
    ("What is the opposite of hot?", "Cold"),
    ("In which month is Christmas Day?", "December"),
    ("What do bees make?", "Honey"),
    ("Which metal has the symbol Fe?", "Iron"),
    ("Is the sun a star?", "Yes"),
)


def build(*, data: Splits | None = None) -> Task:
    """The task.

    Args:
        data: other rows, with a `question` (or `prompt`) and its shortest right `answer`.

    Raises:
        ConfigError: a row of `data` lacks one of them.
    """

    def adapt(row: Mapping[str, Any]) -> Row:
        return {"prompt": column(row, "question", "prompt"), "answer": written(column(row, "answer"))}

    own = Splits(train=_rows(TRAIN), eval=_rows(EVAL))
    train, held_out = (data or own).adapted(adapt)
    return Task(
        name="conciseness",
        train=train,
        eval=held_out,
        reward_funcs=(conciseness_reward,),
        metric_funcs={"rescaled": rescaled_conciseness},
        text_prompts=TextPrompts(questions=True),
    )


def _rows(pairs: tuple[tuple[str, str], ...]) -> list[Row]:
    return [{"question": question, "answer": answer} for question, answer in pairs]
