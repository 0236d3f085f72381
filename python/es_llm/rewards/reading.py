"""Numbers in text: the one that a text answers with, in the manner of GSM8K (a solution ends with `#### 42`).

Reading is bounded in time for any text.

Where the answer stands, in this order:

- behind the last `####`: the number that begins there, as GSM8K's own evaluation reads it, whatever follows it; signs
  of currency and of emphasis, a box or brackets may stand between them;
- in the last `\\boxed{}`: its content, which is one number and at most a unit;
- the last number of the text. A minus right behind a digit, letter or bracket is an operation (`20-5` ends with 5).

This reading is for completions, and for right answers with `####` or a box. Any other right answer is read by
`numbers.right_answer`.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from numbers import Number
from typing import Any, Final

LONGEST: Final = 1000
"""Characters of a number that is read; longer ones are no number."""
LARGEST_EXPONENT: Final = 1000
"""A power of ten beyond that is no number: nobody computes it."""
TAIL: Final = 4096
"""The number of last characters in which an answer without a mark is looked for."""

MARKS: Final = " *_`~\"'$"
_ENDS: Final = f"{MARKS}.,;!"
"""Characters at both ends of an answer that don't count where text is compared."""

_WORDS: Final = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}")
_GROUPS: Final = r"[0-9]{1,3}(?:\.[0-9]{3}){2,}(?![0-9])"
_MIXED: Final = r"[0-9]+ +[0-9]+/[0-9]+"
_PLAIN: Final = r"(?:[0-9]+(?:,[0-9]+)*(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+|/[0-9]+)?"
NUMBER: Final = rf"[-+]?(?:{_GROUPS}|{_MIXED}|{_PLAIN})"
"""A pattern of one number. A comma may stand between any digits, so that `1,5` is one number, and no 5."""
_WHOLE: Final = re.compile(NUMBER)
_GROUPED: Final = re.compile(rf"[-+]?{_GROUPS}")
_LAST: Final = re.compile(rf"(?:(?<![0-9A-Za-z.)\]}}])[-+][$€£]?(?=[0-9.])|(?![-+])){NUMBER}")
_COMMAS: Final = re.compile(r"[-+]?[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,]).*")
_FRACTION: Final = re.compile(r"([0-9]?) ?\\[dt]?frac\s*\{\s*(-?[0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}")
_MARKED: Final = re.compile(rf"([-+]?)(?:[\s*_`~$€£(\[{{=:]|\\(?:boxed|text|mathbf|\$|\(|\[))*({NUMBER})")
_UNIT: Final = re.compile(r"(?:\s|\\[,;! ]|~)*(?:\\?%|\\text\s*\{[^{}0-9]*\}?|[A-Za-z][A-Za-z ]*)?[\s.}]*")


def read_answer(text: str) -> Fraction | None:
    """The number that a text answers with, or None.

    ASCII digits only; commas before groups of three digits are left out, and points where there are several such groups
    (`1.000.000`). A number with other commas (`1,5`) is none. `1e-05` is 0.00001, and `1e5` is 100000, as programs
    write them. `1 1/2` is 3/2, `\\frac{1}{2}` is 1/2, and a minus may be U+2212.
    """
    marked = text.rpartition("####")
    if marked[1]:
        return _marked(marked[2])
    boxed = text.rpartition("\\boxed{")
    if boxed[1]:
        return _boxed(boxed[2])
    found = _LAST.findall(in_ascii(text[-TAIL:]))
    return read_number(found[-1]) if found else None


def read_number(text: str) -> Fraction | None:
    """A number with an optional sign, currency or percent sign, commas before groups of three digits, decimals, a power
    of ten, or as a fraction or a mixed number (`1 1/2`); else None."""
    plain = in_ascii(text).strip().rstrip(".%").strip()
    sign = plain[:1] if plain[:1] in ("-", "+") else ""
    plain = sign + plain[len(sign) :].lstrip("$€£")
    if not 0 < len(plain) <= LONGEST or _WHOLE.fullmatch(plain) is None:
        return None
    if "," in plain and _COMMAS.fullmatch(plain) is None:
        return None
    plain = plain.replace(",", "")
    if _GROUPED.fullmatch(plain):
        plain = plain.replace(".", "")
    exponent = plain.lower().partition("e")[2]
    try:
        if exponent and abs(int(exponent)) > LARGEST_EXPONENT:
            return None
        whole, _, part = plain[len(sign) :].rpartition(" ")
        numerator, _, denominator = part.partition("/")
        size = Fraction(whole.strip() or 0) + Fraction(numerator) / Fraction(denominator or 1)
    except (ValueError, ZeroDivisionError):
        return None
    return -size if sign == "-" else size


def box_content(text: str) -> str:
    """What stands before the brace that closes a box, of which `text` is what follows the open one."""
    depth = 1
    for index, sign in enumerate(text):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return text[:index]
    return text


def in_ascii(text: str) -> str:
    """The text with U+2212 as `-`, and with fractions in LaTeX (`1\\frac{1}{2}`) as `1 1/2`."""
    return _FRACTION.sub(_fraction, text.replace("\u2212", "-"))


def plain_text(text: str) -> str:
    """Text as it is compared: what differs in these alone is equal."""
    words = " ".join(_WORDS.sub(r"\1", in_ascii(text)).split()).casefold()
    return words.strip(_ENDS)


def _fraction(found: re.Match[str]) -> str:
    whole, numerator, denominator = found.groups()
    return f"{whole} {numerator}/{denominator}" if whole else f"{numerator}/{denominator}"


def written(answer: Any) -> str:
    """The right answer of a row as text. A number stands there in digits, without a power of ten: `1e-05` is
    `0.00001`. A float is the shortest decimal that reads back as this float, as Python prints it."""
    text = str(answer)
    if not isinstance(answer, Number) or isinstance(answer, bool | complex):
        return text
    return in_digits(text) or text


def in_digits(text: str) -> str:
    """A decimal number (`1e-05`) without its power of ten (`0.00001`), in at most `LONGEST` characters; else empty."""
    try:
        number = Decimal(text)
    except InvalidOperation:  # a fraction
        return ""
    if not number.is_finite() or abs(number.adjusted()) > LONGEST:
        return ""
    digits = f"{number:f}"
    return digits if len(digits) <= LONGEST else ""


def _marked(text: str) -> Fraction | None:
    """The number that a text begins with."""
    found = _MARKED.match(in_ascii(text.lstrip()[: 3 * LONGEST].partition("\n")[0]))
    return read_number(found[1] + found[2]) if found is not None else None


def _boxed(text: str) -> Fraction | None:
    """The number in a box, but for its unit."""
    content = box_content(text[: 3 * LONGEST].replace("\\$", "$").replace("{,}", ",").replace("\\!", ""))
    content = in_ascii(content).strip()
    found = _MARKED.match(content)
    if found is None or _UNIT.fullmatch(content[found.end() :]) is None:
        return None
    return read_number(found[1] + found[2])
