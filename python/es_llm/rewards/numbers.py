"""Numeric answers in text, in the manner of GSM8K: a solution ends with `#### 42`; bounded in time for any text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final

from es_llm.rewards.marks import inline
from es_llm.rewards.text import completion_text

LONGEST: Final = 64
"""Characters of a number that is read; longer ones are no number."""
TAIL: Final = 4096
"""An answer without a mark is looked for in so many last characters."""

_NUMBER: Final = re.compile(r"[-+]?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?:/[0-9]+)?")


@inline
def numeric_accuracy(completions: Sequence[Any], answer: Sequence[Any], **columns: Any) -> list[float | None]:
    """1.0 where the completion's answer equals the row's `answer`, else 0.0; None where the row's can't be read.

    The answer is the number behind the last `####`, else the content of the last `\\boxed{}`, else the last number.
    """
    return [_score(completion_text(text), gold) for text, gold in zip(completions, answer, strict=True)]


def read_answer(text: str) -> Fraction | None:
    """The number that a text answers with, or None. ASCII digits only; commas between digits are left out."""
    marked = text.rpartition("####")
    if marked[1]:
        return read_number(marked[2].strip()[:LONGEST].partition("\n")[0])
    boxed = text.rpartition("\\boxed{")
    if boxed[1]:
        return read_number(boxed[2][: LONGEST + 1].partition("}")[0])
    found = _NUMBER.findall(text[-TAIL:])
    return read_number(found[-1]) if found else None


def read_number(text: str) -> Fraction | None:
    """A number with an optional sign, currency or percent sign, commas, decimals, or as a fraction; else None."""
    plain = text.strip().rstrip(".%").strip().lstrip("$€£").replace(",", "").replace(" ", "")
    if plain.startswith("-$"):
        plain = "-" + plain[2:]
    if not 0 < len(plain) <= LONGEST or _NUMBER.fullmatch(plain) is None:
        return None
    try:
        numerator, _, denominator = plain.partition("/")
        return Fraction(numerator) / Fraction(denominator or 1)
    except (ValueError, ZeroDivisionError):
        return None


def _score(text: str, gold: Any) -> float | None:
    wanted = read_answer(gold) if isinstance(gold, str) else Fraction(gold)
    if wanted is None:
        return None
    got = read_answer(text)
    return 1.0 if got == wanted else 0.0
