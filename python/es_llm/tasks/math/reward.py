"""The reward of mathematical answers: math-verify compares the content of the last box with the right answer.

A model's text is hostile input: boxes have a maximum length, numbers with more than `MAX_DIGITS` digits are never
computed, and a comparison takes at most `LIMIT_S` seconds (in the main thread, as in workers). An answer beyond a limit
is wrong.

Two forms of text mean something else to math-verify than to people. A number as programs write it (`1e-05`) and a mixed
number (`1 1/2`) are converted to digits or a fraction first, in right answers and in completions. A date or a time of
day (`2024-01-01`, `10:30`) is compared as plain text.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final

from es_llm.errors import RewardError
from es_llm.plugins import import_optional
from es_llm.rewards.text import completion_text
from es_llm.tasks.answer_limits import OverTimeError, TimeLimit, digits
from es_llm.tasks.reading import answer_text, in_digits, normalized, read_number

MAX_BOX: Final = 1000
"""Characters of a box. A longer box is wrong."""
MAX_DIGITS: Final = 20_000
"""Upper bound of the digits that powers and factorials in an answer may have."""
LIMIT_S: Final = 3.0
"""Seconds to read and compare one answer."""
_MAX_TIME: Final = 100
"""Characters of a date or a time of day."""
_ATTEMPTS: Final = 2
"""Attempts to parse the right answer of a row. The result is cached, so one stall of the machine must not decide it."""
_BOX: Final = ("\\boxed{", "\\fbox{")


def math_accuracy(completions: Sequence[Any], answer: Sequence[Any], **columns: Any) -> list[float | None]:
    """1.0 where the boxed answer of the completion equals the row's `answer` (LaTeX, boxed or not), else 0.0; None if
    the row's answer can't be read, whatever the completion is.

    Raises:
        RewardError: math-verify is missing.
    """
    return [_reward(completion_text(text), right) for text, right in zip(completions, answer, strict=True)]


def last_box(text: str) -> str | None:
    """The content of the last `\\boxed{}` or `\\fbox{}`; None if no box has a closing brace."""
    start = max(text.rfind(box) for box in _BOX)
    if start < 0:
        return None
    begin = text.index("{", start) + 1
    depth = 1
    for index in range(begin, min(len(text), begin + MAX_BOX + 1)):
        if text[index] == "\\":
            continue
        escaped = text[index - 1] == "\\" and text[index - 2 : index] != "\\\\"
        if not escaped:
            depth += (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return text[begin:index]
    return None


def latex(value: Fraction) -> str:
    """A number in LaTeX: an integer, or a fraction with its sign in front."""
    if value.denominator == 1:
        return str(value.numerator)
    sign = "-" if value < 0 else ""
    return f"{sign}\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def _reward(text: str, answer: Any) -> float | None:
    if answer is None:
        return None
    right = answer_text(answer)
    boxed = last_box(right)
    right = _in_digits(right if boxed is None else boxed)
    if not _parsed(right):
        return None
    given = last_box(text)
    if given is None or not given.strip():
        return 0.0
    if _is_time(right) or _is_date(given):
        return float(_spoken(given) == _spoken(right))
    given = _in_digits(given)
    return float(bool(given) and _equal(given, right))


def _equal(given: str, right: str) -> bool:
    """True if two LaTeX answers are equal. `right` must be readable (see `_parsed`)."""
    if digits(given) > MAX_DIGITS:
        return False
    parsed = _parsed(right)
    parse, verify = _library()
    try:
        with TimeLimit(LIMIT_S):
            return bool(verify(parsed, parse(f"\\boxed{{{given}}}", parsing_timeout=None), timeout_seconds=None))
    except (OverTimeError, RecursionError, MemoryError):
        return False
    except Exception:  # of any class; the completion's answer is at fault if the right one equals itself
        with TimeLimit(LIMIT_S):
            verify(parsed, parsed, timeout_seconds=None)
        return False


@functools.lru_cache(maxsize=4096)
def _parsed(right: str) -> list[Any]:
    """What math-verify reads in the right answer of a row; empty if it can't be read. Cached for all members."""
    if len(right) > MAX_BOX or digits(right) > MAX_DIGITS:
        return []
    parse, _ = _library()
    for _ in range(_ATTEMPTS):
        try:
            with TimeLimit(LIMIT_S):
                return list(parse(f"\\boxed{{{right}}}", parsing_timeout=None))
        except OverTimeError:
            continue
        except (RecursionError, MemoryError):
            break
    return []


_POWER: Final = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+")
_MIXED: Final = re.compile(r"[-+]?[0-9]+ +[0-9]+/[0-9]+")


def _in_digits(text: str) -> str:
    """Digits for a number with a power of ten, a fraction for a mixed number, all other text unchanged; empty for a
    number that is too large to compute."""
    plain = text.replace("\u2212", "-").strip().strip("$").strip()
    if _MIXED.fullmatch(plain):
        number = read_number(plain)
        return "" if number is None else latex(number)
    return in_digits(plain) if _POWER.fullmatch(plain) else text


_CLOCK: Final = (
    r"(?<![0-9:])[0-9]{1,2}:[0-5][0-9](?::[0-5][0-9](?:\.[0-9]+)?)?(?![0-9:])\s*"
    r"(?:z\b|[-+][0-9]{2}:?[0-9]{2}(?![0-9]))?"
)
_DATE: Final = (
    r"(?<![0-9])(?:[0-9]{4}([-/.])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([-/.])[0-9]{1,2}\2(?:[0-9]{4}|[0-9]{2})"
    r"|[0-9]{4}-(?:0[1-9]|1[0-2]))(?![0-9])"
)
_DATE_GIVEN: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
"""A date in a completion. Other forms may be meant as differences there."""
_TIMES: Final = re.compile(rf"(?:{_DATE})(?:t(?=[0-9]))?|{_CLOCK}")


def _is_date(text: str) -> bool:
    return len(text) <= _MAX_TIME and _DATE_GIVEN.fullmatch(_spoken(text)) is not None


def _is_time(text: str) -> bool:
    """True if a text holds dates and times of day, with words between them, and nothing else."""
    if len(text) > _MAX_TIME:
        return False
    rest, found = _TIMES.subn(" ", _spoken(text))
    return bool(found) and not re.search(r"[^a-z,.; -]", rest)


def _spoken(text: str) -> str:
    """A date or time as it is compared: `10:30 \\text{ a.m.}` becomes `10:30 am`."""
    text = re.sub(r"\\[,;! ]|~|\$", " ", text)
    return re.sub(r"\s*\b([ap])\.?\s?m\b\.?", r" \1m", normalized(text))


def _library() -> Any:
    library = import_optional(
        "math_verify", "mathematical answers need math-verify", "`pip install 'es_llm[tasks]'`", RewardError
    )
    # `TimeLimit` replaces math-verify's own limit, which is lost in libraries that catch its exception. math-verify
    # warns that its limit is off.
    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return library.parse, library.verify
