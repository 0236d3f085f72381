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
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from numbers import Number
from typing import Any, Final

from es_llm.rewards.marks import inline
from es_llm.rewards.text import completion_text

LONGEST: Final = 64
"""Characters of a number that is read; longer ones are no number."""
LARGEST_EXPONENT: Final = 1000
"""A power of ten beyond that is no number: nobody computes it."""
TAIL: Final = 4096
"""An answer without a mark is looked for in so many last characters."""

_GROUPS: Final = r"[0-9]{1,3}(?:\.[0-9]{3}){2,}(?![0-9])"
_NUMBER: Final = rf"[-+]?(?:{_GROUPS}|(?:[0-9][0-9,]*(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+|/[0-9]+)?)"
_WHOLE: Final = re.compile(_NUMBER)
_GROUPED: Final = re.compile(rf"[-+]?{_GROUPS}")
_LAST: Final = re.compile(rf"(?:(?<![0-9A-Za-z.)\]}}])[-+][$€£]?(?=[0-9.])|(?![-+])){_NUMBER}")
_MARKED: Final = re.compile(rf"([-+]?)(?:[\s*_`~$€£(\[{{=:]|\\(?:boxed|text|mathbf|\$|\(|\[))*({_NUMBER})")
_UNIT: Final = re.compile(r"(?:\s|\\[,;! ]|~)*(?:\\?%|\\text\s*\{[^{}0-9]*\}?|[A-Za-z][A-Za-z ]*)?[\s.}]*")


@inline
def numeric_accuracy(completions: Sequence[Any], answer: Sequence[Any], **columns: Any) -> list[float | None]:
    """1.0 where the completion's answer equals the row's `answer`, else 0.0; None where the row's can't be read."""
    return [_score(completion_text(text), gold) for text, gold in zip(completions, answer, strict=True)]


def read_answer(text: str) -> Fraction | None:
    """The number that a text answers with, or None.

    ASCII digits only; commas between digits are left out, and points where there are several groups of three digits
    (`1.000.000`). `1e-05` is 0.00001, and `1e5` is 100000, as programs write them.
    """
    marked = text.rpartition("####")
    if marked[1]:
        return _marked(marked[2])
    boxed = text.rpartition("\\boxed{")
    if boxed[1]:
        return _boxed(boxed[2])
    found = _LAST.findall(text[-TAIL:])
    return read_number(found[-1]) if found else None


def read_number(text: str) -> Fraction | None:
    """A number with an optional sign, currency or percent sign, commas, decimals, a power of ten, or as a fraction;
    else None."""
    plain = text.strip().rstrip(".%").strip()
    sign = plain[:1] if plain[:1] in ("-", "+") else ""
    plain = (sign + plain[len(sign) :].lstrip("$€£")).replace(",", "")
    if not 0 < len(plain) <= LONGEST or _WHOLE.fullmatch(plain) is None:
        return None
    if _GROUPED.fullmatch(plain):
        plain = plain.replace(".", "")
    exponent = plain.lower().partition("e")[2]
    try:
        if exponent and abs(int(exponent)) > LARGEST_EXPONENT:
            return None
        numerator, _, denominator = plain.partition("/")
        return Fraction(numerator) / Fraction(denominator or 1)
    except (ValueError, ZeroDivisionError):
        return None


def written(answer: Any) -> str:
    """The right answer of a row as text. A number stands there in digits, without a power of ten: `1e-05` is
    `0.00001`. A float is the shortest decimal that reads back as this float, as Python prints it."""
    text = str(answer)
    if not isinstance(answer, Number) or isinstance(answer, bool | complex):
        return text
    try:
        number = Decimal(text)
    except InvalidOperation:  # a fraction
        return text
    if not number.is_finite() or abs(number.adjusted()) > LONGEST:
        return text
    digits = f"{number:f}"
    return digits if len(digits) <= LONGEST else text


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
    wanted = read_answer(written(gold))
    if wanted is None:
        return None
    got = read_answer(text)
    return 1.0 if got == wanted else 0.0
