"""The number that a text answers with, as in GSM8K, where a solution ends with `#### 42`.

The time to read a text is bounded, whatever the text is. The answer is the first of these that the text has:

- the number after the last `####`, as GSM8K's own evaluation reads it, whatever follows it. Currency signs, emphasis, a
  box or brackets may stand between `####` and the number;
- the content of the last `\\boxed{}`, which must be one number and at most a unit;
- the last number of the text. A minus right after a digit, letter or bracket is an operation (`20-5` ends with 5).

Completions are read in this way, and right answers with `####` or a box. `gsm8k.right_answer` reads all other right
answers.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from numbers import Number
from typing import Any, Final

MAX_NUMBER: Final = 1000
"""Characters of a number. A longer one isn't read."""
MAX_EXPONENT: Final = 1000
"""The largest power of ten. A number with a larger one is never computed and isn't read."""
TAIL: Final = 4096
"""Number of last characters of a text that are searched for an answer without `####` or a box."""

EMPHASIS: Final = " *_`~\"'$"
_ENDS: Final = f"{EMPHASIS}.,;!"
"""Characters at both ends of an answer that don't count when text is compared."""

_WORDS: Final = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s*\{([^{}]*)\}")
_GROUPS: Final = r"[0-9]{1,3}(?:\.[0-9]{3}){2,}(?![0-9])"
_MIXED: Final = r"[0-9]+ +[0-9]+/[0-9]+"
_PLAIN: Final = r"(?:[0-9]+(?:,[0-9]+)*(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+|/[0-9]+)?"
NUMBER: Final = rf"[-+]?(?:{_GROUPS}|{_MIXED}|{_PLAIN})"
"""Pattern of one number. A comma may stand between any digits, so that `1,5` is one number and not a 5."""
_WHOLE: Final = re.compile(NUMBER)
_GROUPED: Final = re.compile(rf"[-+]?{_GROUPS}")
_LAST: Final = re.compile(rf"(?:(?<![0-9A-Za-z.)\]}}])[-+][$€£]?(?=[0-9.])|(?![-+])){NUMBER}")
_COMMAS: Final = re.compile(r"[-+]?[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,]).*")
_FRACTION: Final = re.compile(r"([0-9]?) ?\\[dt]?frac\s*\{\s*(-?[0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}")
_MARKED: Final = re.compile(rf"([-+]?)(?:[\s*_`~$€£(\[{{=:]|\\(?:boxed|text|mathbf|\$|\(|\[))*({NUMBER})")
_UNIT: Final = re.compile(r"(?:\s|\\[,;! ]|~)*(?:\\?%|\\text\s*\{[^{}0-9]*\}?|[A-Za-z][A-Za-z ]*)?[\s.}]*")


def read_answer(text: str) -> Fraction | None:
    """The number that a text answers with, or None.

    Digits are ASCII. Commas before groups of three digits are dropped, and so are points if there are several such
    groups (`1.000.000`). A number with other commas (`1,5`) isn't read. `1e-05` is 0.00001 and `1e5` is 100000, as
    programs write them. `1 1/2` is 3/2, `\\frac{1}{2}` is 1/2, and a minus may be U+2212.
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
    """The value of one number, or None if the text is anything else.

    The number may have a sign, a currency or percent sign, commas before groups of three digits, decimals or a power of
    ten. It may be a fraction or a mixed number (`1 1/2`).
    """
    plain = in_ascii(text).strip().rstrip(".%").strip()
    sign = plain[:1] if plain[:1] in ("-", "+") else ""
    plain = sign + plain[len(sign) :].lstrip("$€£")
    if not 0 < len(plain) <= MAX_NUMBER or _WHOLE.fullmatch(plain) is None:
        return None
    if "," in plain and _COMMAS.fullmatch(plain) is None:
        return None
    plain = plain.replace(",", "")
    if _GROUPED.fullmatch(plain):
        plain = plain.replace(".", "")
    exponent = plain.lower().partition("e")[2]
    try:
        if exponent and abs(int(exponent)) > MAX_EXPONENT:
            return None
        whole, _, part = plain[len(sign) :].rpartition(" ")
        numerator, _, denominator = part.partition("/")
        size = Fraction(whole.strip() or 0) + Fraction(numerator) / Fraction(denominator or 1)
    except (ValueError, ZeroDivisionError):
        return None
    return -size if sign == "-" else size


def box_content(text: str) -> str:
    """The content of a box: `text`, which begins after the opening brace, up to the closing brace."""
    depth = 1
    for index, sign in enumerate(text):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return text[:index]
    return text


def in_ascii(text: str) -> str:
    """The text with `-` for U+2212, and with fractions of LaTeX (`1\\frac{1}{2}`) written as `1 1/2`."""
    return _FRACTION.sub(_fraction, text.replace("\u2212", "-"))


def normalized(text: str) -> str:
    """The text in lower case, with single spaces, and without emphasis and punctuation at both ends."""
    words = " ".join(_WORDS.sub(r"\1", in_ascii(text)).split()).casefold()
    return words.strip(_ENDS)


def _fraction(found: re.Match[str]) -> str:
    whole, numerator, denominator = found.groups()
    return f"{whole} {numerator}/{denominator}" if whole else f"{numerator}/{denominator}"


def answer_text(answer: Any) -> str:
    """The right answer of a row as text.

    A number is written in digits, without a power of ten: `1e-05` becomes `0.00001`. A float becomes the shortest
    decimal that reads back as this float, as Python prints it.
    """
    text = str(answer)
    if not isinstance(answer, Number) or isinstance(answer, bool | complex):
        return text
    return in_digits(text) or text


def in_digits(text: str) -> str:
    """A decimal number (`1e-05`) without its power of ten (`0.00001`); empty if that takes more than `MAX_NUMBER`
    characters, or if the text isn't a decimal number."""
    try:
        number = Decimal(text)
    except InvalidOperation:  # a fraction
        return ""
    if not number.is_finite() or abs(number.adjusted()) > MAX_NUMBER:
        return ""
    digits = f"{number:f}"
    return digits if len(digits) <= MAX_NUMBER else ""


def _marked(text: str) -> Fraction | None:
    found = _MARKED.match(in_ascii(text.lstrip()[: 3 * MAX_NUMBER].partition("\n")[0]))
    return read_number(found[1] + found[2]) if found is not None else None


def _boxed(text: str) -> Fraction | None:
    content = box_content(text[: 3 * MAX_NUMBER].replace("\\$", "$").replace("{,}", ",").replace("\\!", ""))
    content = in_ascii(content).strip()
    found = _MARKED.match(content)
    if found is None or _UNIT.fullmatch(content[found.end() :]) is None:
        return None
    return read_number(found[1] + found[2])
