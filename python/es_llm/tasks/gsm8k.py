"""Word problems with numeric answers, in the shape of GSM8K: `openai/gsm8k` by name, or small problems of our own.

    es-llm train --task gsm8k --dataset_name openai/gsm8k --dataset_config main

The reward compares the answer of a completion with the right answer of its row, which is one of these:

- text with `####` or `\\boxed{}`, such as a solution of GSM8K: `reading.read_answer` finds its number;
- one whole number, with at most a word for its unit: compared as a number;
- any other text, such as a date, a time, a list or words: compared as text.

Text is compared with the completion's final answer: the rest of the line after the last `####`, else the content of the
last box, else the end of the last line. In the last case the right answer must be the whole line, or the text before it
must end with a letter, a colon or an equals sign (`it is 10:30`, but not `4, 5, 6` for `5, 6`). Case, the amount of
white space, emphasis, quotes, currency signs and punctuation at both ends don't count.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Final

from es_llm.rewards import inline
from es_llm.rewards.text import completion_text
from es_llm.tasks.base import Splits, Task, column, own_problems, question_prompt, question_task
from es_llm.tasks.reading import (
    EMPHASIS,
    NUMBER,
    TAIL,
    answer_text,
    box_content,
    in_ascii,
    normalized,
    read_answer,
    read_number,
)
from es_llm.types import Row

INSTRUCTION = "Reason step by step, and end with a line that holds #### and then nothing but the number."
NAMES = ("Ada", "Ben", "Chen", "Dora", "Emil", "Fatma", "Goran", "Hana")
THINGS = ("apples", "books", "coins", "stamps", "marbles", "tickets")


def build(*, train_size: int = 200, eval_size: int = 200, seed: int = 0, data: Splits | None = None) -> Task:
    """The task. `data` are rows that replace the own problems, with a `question` or a ready `prompt`, and an `answer`
    that is a number or ends with `####` and the number."""

    def adapt(row: Mapping[str, Any]) -> Row:
        prompt = question_prompt(row, "question", "problem", ending=f"\n{INSTRUCTION}\n")
        return {"prompt": prompt, "answer": answer_text(column(row, "answer"))}

    splits = own_problems(_problems, train_size=train_size, eval_size=eval_size, seed=seed, data=data)
    return question_task("gsm8k", splits, adapt, reward_funcs=(numeric_accuracy,), answer_of=_number)


@inline
def numeric_accuracy(completions: Sequence[Any], answer: Sequence[Any], **columns: Any) -> list[float | None]:
    """1.0 where the completion's answer equals the row's `answer`, else 0.0; None if the row's can't be read."""
    return [_reward(completion_text(text), right) for text, right in zip(completions, answer, strict=True)]


def right_answer(answer: Any) -> Fraction | str | None:
    """The right answer of a row: a number, or text to compare (`normalized`); None if it is neither.

    None stands for empty text, text without a letter or digit, bool, NaN, infinities, and numbers beyond the limits of
    `reading`.
    """
    if answer is None or type(answer).__name__ in ("bool", "bool_"):  # numpy's too
        return None
    text = answer_text(answer)
    if "####" in text or "\\boxed{" in text:
        return read_answer(text)
    text = in_ascii(text).strip()
    if len(text) > 2 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    found = _RIGHT_NUMBER.fullmatch(text)
    number = read_number(found[1] + found[2]) if found is not None else None
    if number is not None or (found is not None and "," not in found[2]):
        return number
    if _NOT_FINITE.fullmatch(text) or not any(map(str.isalnum, text)):
        return None
    return text


_SCALES: Final = "hundred|thousand|million|billion|trillion|dozen|[ap]m"
"""Words after a number that aren't its unit."""
_UNIT: Final = rf"\\?%|(?!\s*(?:{_SCALES})s?\b)(?:\s*[a-z]{{2,}}|\s+[a-z])"
_RIGHT_NUMBER: Final = re.compile(rf"([-+]?)\s*(?:\\?\$|[€£])?\s*({NUMBER})\s*(?:{_UNIT})?\s*\.?", re.IGNORECASE)
_ANNOUNCED: Final = re.compile(rf"(?:[^\W\d_]|=|(?<![0-9]):|:(?=\s))[{EMPHASIS}(]*$")
"""Text that ends with a letter, a colon (but not the colon of `10:30`) or an equals sign."""
_NOT_FINITE: Final = re.compile(r"[-+]?(?:nan|inf|infinity|<na>|nat|none|null)", re.IGNORECASE)


def _reward(text: str, answer: Any) -> float | None:
    right = right_answer(answer)
    if right is None:
        return None
    if isinstance(right, str):
        return float(_ends_with(text, right))
    return float(read_answer(text) == right)


def _ends_with(text: str, answer: str) -> bool:
    right = normalized(answer)
    room = max(TAIL, 4 * len(answer))
    marked = text.rpartition("####")
    if marked[1]:
        text = marked[2][:room].strip().partition("\n")[0]
    boxed = text.rpartition("\\boxed{")
    if boxed[1]:
        return normalized(box_content(boxed[2][:room])) == right
    if marked[1]:
        return normalized(text) == right
    lines = [line for line in text[-room:].splitlines() if line.strip()]
    length = len([line for line in answer.splitlines() if line.strip()])
    last = normalized("\n".join(lines[-length:]))
    if last == right:
        return True
    before = last.removesuffix(right)
    if before == last or before[-1].isalnum():
        return False
    return _ANNOUNCED.search(before) is not None


def _number(text: str) -> str | None:
    number = read_answer(text)
    return None if number is None else str(number)


def _problems(split: str, size: int, seed: int) -> list[Row]:
    """Distinct own problems. The numbers of the two splits never agree."""
    stream = random.Random(f"es_llm/gsm8k/{split}/{seed}")
    rows: dict[str, Row] = {}
    while len(rows) < size:
        name, thing = NAMES[int(stream.random() * len(NAMES))], THINGS[int(stream.random() * len(THINGS))]
        boxes, each, gone = (2 + int(stream.random() * 30) for _ in range(3))
        gone = min(gone, boxes * each)
        if ((boxes + each + gone) % 5 == 0) != (split == "eval"):
            continue
        question = (
            f"{name} has {boxes} boxes with {each} {thing} each and gives {gone} {thing} away. "
            f"How many {thing} does {name} have left?"
        )
        answer = f"{boxes} * {each} = {boxes * each}. {boxes * each} - {gone} = {boxes * each - gone}.\n"
        rows[question] = {"question": question, "answer": f"{answer}#### {boxes * each - gone}"}
    return list(rows.values())
