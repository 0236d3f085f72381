"""Conciseness: short questions, each with its shortest right answer (Qiu et al., arXiv 2509.24372, section 4).

Two questions to train on and eight held out, as in the paper. The questions are our own. A completion as long as the
shortest right answer is best:

    reward = -|len(completion) - len(answer)|, in characters of the completion alone

Reports use a scale on which -2000 is 0 and 0 is 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from es_llm.rewards import inline
from es_llm.rewards.text import completion_text
from es_llm.tasks.base import Splits, Task, column, question_task
from es_llm.tasks.reading import answer_text
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
ZERO: Final = -2000.0
"""The reward that is reported as 0."""


def build(*, data: Splits | None = None) -> Task:
    """The task. `data` are rows with a `question` (or `prompt`) and its shortest right `answer`."""

    def adapt(row: Mapping[str, Any]) -> Row:
        return {"prompt": column(row, "question", "prompt"), "answer": answer_text(column(row, "answer"))}

    train, held_out = ([{"question": question, "answer": answer} for question, answer in own] for own in (TRAIN, EVAL))
    splits = data or Splits(train=train, eval=held_out)
    metrics = {"rescaled": rescaled_conciseness}
    return question_task("conciseness", splits, adapt, reward_funcs=(conciseness_reward,), metric_funcs=metrics)


@inline
def conciseness_reward(completions: Sequence[Any], answer: Sequence[str], **columns: Any) -> list[float]:
    """-|len(completion) - len(answer)| of each completion, at most 0."""
    texts = map(completion_text, completions)
    return [-float(abs(len(text) - len(short))) for text, short in zip(texts, answer, strict=True)]


@inline
def rescaled_conciseness(completions: Sequence[Any], answer: Sequence[str], **columns: Any) -> list[float]:
    """The reward as the paper reports it: 1 - reward / -2000. Below 0 for lengths more than 2,000 off."""
    return [1.0 - reward / ZERO for reward in conciseness_reward(completions, answer)]
