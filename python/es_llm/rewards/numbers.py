"""Numeric answers in text, in the manner of GSM8K: a solution ends with `#### 42`; bounded in time for any text.

Where the answer stands, in this order:

- behind the last `####`: the number that begins there, as GSM8K's own evaluation reads it, whatever follows it; signs
  of currency and of emphasis, a box or brackets may stand between them;
- in the last `\\boxed{}`: its content, which is one number and at most a unit;
- the last number of the text. A minus right behind a digit, letter or bracket is an operation (`20-5` ends with 5).
"""

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

_NUMBER: Final = r"[-+]?(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?:/[0-9]+)?"
_WHOLE: Final = re.compile(_NUMBER)
_LAST: Final = re.compile(rf"(?:(?<![0-9A-Za-z.)\]}}])[-+][$€£]?(?=[0-9.])|(?![-+])){_NUMBER}")
_MARKED: Final = re.compile(rf"([-+]?)(?:[\s*_`~$€£(\[{{=:]|\\(?:boxed|text|mathbf|\$|\(|\[))*({_NUMBER})")
_UNIT: Final = re.compile(r"(?:\s|\\[,;! ]|~)*(?:\\?%|\\text\s*\{[^{}0-9]*\}?|[A-Za-z][A-Za-z ]*)?[\s.}]*")


@inline
def numeric_accuracy(completions: Sequence[Any], answer: Sequence[Any], **columns: Any) -> list[float | None]:
    """1.0 where the completion's answer equals the row's `answer`, else 0.0; None where the row's can't be read."""
    return [_score(completion_text(text), gold) for text, gold in zip(completions, answer, strict=True)]


def read_answer(text: str) -> Fraction | None:
    """The number that a text answers with, or None. ASCII digits only; commas between digits are left out."""
    marked = text.rpartition("####")
    if marked[1]:
        return _marked(marked[2])
    boxed = text.rpartition("\\boxed{")
    if boxed[1]:
        return _boxed(boxed[2])
    found = _LAST.findall(text[-TAIL:])
    return read_number(found[-1]) if found else None


def read_number(text: str) -> Fraction | None:
    """A number with an optional sign, currency or percent sign, commas, decimals, or as a fraction; else None."""
    plain = text.strip().rstrip(".%").strip()
    sign = plain[:1] if plain[:1] in ("-", "+") else ""
    plain = (sign + plain[len(sign) :].lstrip("$€£")).replace(",", "")
    if not 0 < len(plain) <= LONGEST or _WHOLE.fullmatch(plain) is None:
        return None
    try:
        numerator, _, denominator = plain.partition("/")
        return Fraction(numerator) / Fraction(denominator or 1)
    except (ValueError, ZeroDivisionError):
        return None


def _marked(text: str) -> Fraction | None:
    """The number that a text begins with."""
    found = _MARKED.match(text.lstrip()[: 3 * LONGEST].partition("\n")[0])
    return read_number(found[1] + found[2]) if found is not None else None


def _boxed(text: str) -> Fraction | None:
    """The number in a box, but for its unit."""
    content = text[: 3 * LONGEST].replace("\\$", "$").replace("{,}", ",").replace("\\!", "")
    depth = 1
    for place, sign in enumerate(content):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            content = content[:place]
            break
    found = _MARKED.match(content.strip())
    if found is None or _UNIT.fullmatch(content.strip()[found.end() :]) is None:
        return None
    return read_number(found[1] + found[2])


def _score(text: str, gold: Any) -> float | None:
    wanted = read_answer(gold) if isinstance(gold, str) else Fraction(gold)
    if wanted is None:
        return None
    got = read_answer(text)
    return 1.0 if got == wanted else 0.0
