"""The reward of numeric answers: the answer of a completion is compared with the right one of its row.

The right answer of a row is one of these:

- text with `####` or `\\boxed{}`, such as a solution of GSM8K: `reading.read_answer` finds its number;
- one whole number, with at most a word for its unit: compared as a number;
- any other text, such as a date, a time, a list or words: compared as text.

Text is compared with the completion's final answer: what stands behind the last `####` in its line, else the content
of the last box, else the end of the last line. There the right answer is the whole line, or what comes before it ends
with a letter, a colon or an equals sign (`it is 10:30`, not `4, 5, 6` for `5, 6`). Case, the amount of white space,
emphasis, quotes, signs of currency and punctuation at both ends don't count.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final

from es_llm.rewards.marks import inline
from es_llm.rewards.reading import (
    MARKS,
    NUMBER,
    TAIL,
    box_content,
    in_ascii,
    plain_text,
    read_answer,
    read_number,
    written,
)
from es_llm.rewards.text import completion_text

_SCALES: Final = "hundred|thousand|million|billion|trillion|dozen|[ap]m"
"""Words behind a number that aren't its unit."""
_UNIT: Final = rf"\\?%|(?!\s*(?:{_SCALES})s?\b)(?:\s*[a-z]{{2,}}|\s+[a-z])"
_GOLD: Final = re.compile(rf"([-+]?)\s*(?:\\?\$|[€£])?\s*({NUMBER})\s*(?:{_UNIT})?\s*\.?", re.IGNORECASE)
_ANNOUNCED: Final = re.compile(rf"(?:[^\W\d_]|=|(?<![0-9]):|:(?=\s))[{MARKS}(]*$")
"""What ends with a letter, a colon (but for that of `10:30`) or an equals sign."""
_NOT_FINITE: Final = re.compile(r"[-+]?(?:nan|inf|infinity|<na>|nat|none|null)", re.IGNORECASE)


@inline
def numeric_accuracy(completions: Sequence[Any], answer: Sequence[Any], **columns: Any) -> list[float | None]:
    """1.0 where the completion's answer equals the row's `answer`, else 0.0; None where the row's can't be read."""
    return [_score(completion_text(text), gold) for text, gold in zip(completions, answer, strict=True)]


def right_answer(gold: Any) -> Fraction | str | None:
    """The right answer of a row: a number, or text to compare (`plain_text`); None if it is neither.

    Neither are: empty text, text without a letter or digit, bool, NaN, infinities, and numbers beyond the limits of
    `reading`.
    """
    if gold is None or type(gold).__name__ in ("bool", "bool_"):  # numpy's too
        return None
    text = written(gold)
    if "####" in text or "\\boxed{" in text:
        return read_answer(text)
    text = in_ascii(text).strip()
    if len(text) > 2 and text[0] == text[-1] == "$":
        text = text[1:-1].strip()
    found = _GOLD.fullmatch(text)
    number = read_number(found[1] + found[2]) if found is not None else None
    if number is not None or (found is not None and "," not in found[2]):
        return number
    if _NOT_FINITE.fullmatch(text) or not any(map(str.isalnum, text)):
        return None
    return text


def _score(text: str, gold: Any) -> float | None:
    wanted = right_answer(gold)
    if wanted is None:
        return None
    if isinstance(wanted, str):
        return float(_says(text, wanted))
    return float(read_answer(text) == wanted)


def _says(text: str, wanted: str) -> bool:
    """Whether the final answer of a completion is this text."""
    right = plain_text(wanted)
    room = max(TAIL, 4 * len(wanted))
    marked = text.rpartition("####")
    if marked[1]:
        text = marked[2][:room].strip().partition("\n")[0]
    boxed = text.rpartition("\\boxed{")
    if boxed[1]:
        return plain_text(box_content(boxed[2][:room])) == right
    if marked[1]:
        return plain_text(text) == right
    lines = [line for line in text[-room:].splitlines() if line.strip()]
    rows = len([line for line in wanted.splitlines() if line.strip()])
    last = plain_text("\n".join(lines[-rows:]))
    if last == right:
        return True
    before = last.removesuffix(right)
    if before == last or before[-1].isalnum():
        return False
    return _ANNOUNCED.search(before) is not None
