"""Mathematical answers: the content of the last box is compared with the right one by math-verify.

What a model writes is hostile input: boxes are short, numbers that would come to more than `MOST_DIGITS` digits are
never computed, and comparing takes `LIMIT_S` at most (in the main thread, as in workers). An answer beyond a limit is
wrong.

Two kinds of text mean something else to math-verify than to people. A number as programs write it (`1e-05`) or a mixed
number (`1 1/2`) is put into digits first, in right answers and in completions. A date or a time of day (`2024-01-01`,
`10:30`) is compared as plain text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final

from es_llm.errors import RewardError
from es_llm.rewards.alarm import OverTimeError, TimeLimit
from es_llm.rewards.reading import in_digits, plain_text, read_number, written
from es_llm.rewards.text import completion_text
from es_llm.tasks.answer_limits import digits

LONGEST: Final = 1000
"""Characters of a box that is read; a longer one is wrong."""
MOST_DIGITS: Final = 20_000
"""Digits that powers and factorials in an answer may come to, by a generous bound."""
_LONGEST_TIME: Final = 100
"""Characters of a date or a time of day."""
LIMIT_S: Final = 3.0
"""Seconds to read and compare one answer."""
_TRIES: Final = 2
"""To read a right answer, since what comes of it is kept: it may be the machine that stood still."""
_POWER: Final = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+")
_MIXED: Final = re.compile(r"[-+]?[0-9]+ +[0-9]+/[0-9]+")
_CLOCK: Final = (
    r"(?<![0-9:])[0-9]{1,2}:[0-5][0-9](?::[0-5][0-9](?:\.[0-9]+)?)?(?![0-9:])\s*"
    r"(?:z\b|[-+][0-9]{2}:?[0-9]{2}(?![0-9]))?"
)
_DATE: Final = (
    r"(?<![0-9])(?:[0-9]{4}([-/.])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([-/.])[0-9]{1,2}\2(?:[0-9]{4}|[0-9]{2})"
    r"|[0-9]{4}-(?:0[1-9]|1[0-2]))(?![0-9])"
)
_DATES: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
"""Dates in completions: other forms may be meant as differences there."""
_TIMES: Final = re.compile(rf"(?:{_DATE})(?:t(?=[0-9]))?|{_CLOCK}")
_BOX: Final = ("\\boxed{", "\\fbox{")


def math_accuracy(completions: Sequence[Any], answer: Sequence[Any], **columns: Any) -> list[float | None]:
    """1.0 where the boxed answer of the completion equals the row's `answer` (LaTeX, boxed or not), else 0.0; None
    where the row's can't be read, whatever the completion is.

    Raises:
        RewardError: math-verify is missing.
    """
    return [_score(completion_text(text), gold) for text, gold in zip(completions, answer, strict=True)]


def last_box(text: str) -> str | None:
    """The content of the last `\\boxed{}` or `\\fbox{}`, its braces matched; None without one that is closed."""
    start = max(text.rfind(box) for box in _BOX)
    if start < 0:
        return None
    begin = text.index("{", start) + 1
    depth = 1
    for place in range(begin, min(len(text), begin + LONGEST + 1)):
        if text[place] == "\\":
            continue
        escaped = text[place - 1] == "\\" and text[place - 2 : place] != "\\\\"
        if not escaped:
            depth += (text[place] == "{") - (text[place] == "}")
        if depth == 0:
            return text[begin:place]
    return None


def equal(answer: str, gold: str) -> bool | None:
    """Whether two LaTeX answers are equal; None if the right one can't be read.

    Raises:
        RewardError: math-verify is missing.
    """
    right = _read(gold)
    if not right:
        return None
    if digits(answer) > MOST_DIGITS:
        return False
    parse, verify = _library()
    try:
        with TimeLimit(LIMIT_S):
            return bool(verify(right, parse(f"\\boxed{{{answer}}}", parsing_timeout=None), timeout_seconds=None))
    except (OverTimeError, RecursionError, MemoryError):
        return False
    except Exception:  # of what it is made of; the answer is to blame where the right one compares with itself
        with TimeLimit(LIMIT_S):
            verify(right, right, timeout_seconds=None)
        return False


@functools.lru_cache(maxsize=4096)
def _read(gold: str) -> list[Any]:
    """What math-verify reads in the right answer of a row, which all members are asked for; nothing if it can't."""
    if len(gold) > LONGEST or digits(gold) > MOST_DIGITS:
        return []
    parse, _ = _library()
    for _ in range(_TRIES):
        try:
            with TimeLimit(LIMIT_S):
                return list(parse(f"\\boxed{{{gold}}}", parsing_timeout=None))
        except OverTimeError:
            continue
        except (RecursionError, MemoryError):
            break
    return []


def _score(text: str, answer_of_row: Any) -> float | None:
    if answer_of_row is None:
        return None
    gold = written(answer_of_row)
    boxed = last_box(gold)
    gold = _in_digits(gold if boxed is None else boxed)
    if not _read(gold):
        return None
    answer = last_box(text)
    if answer is None or not answer.strip():
        return 0.0
    if _is_time(gold) or _is_date(answer):
        return float(_spoken(answer) == _spoken(gold))
    answer = _in_digits(answer)
    return float(bool(answer and equal(answer, gold)))


def _in_digits(text: str) -> str:
    """A whole number with a power of ten, or a mixed number, in digits; other text as it is. Empty: nobody computes
    this number."""
    plain = text.replace("\u2212", "-").strip().strip("$").strip()
    if _MIXED.fullmatch(plain):
        number = read_number(plain)
        return "" if number is None else _latex(number)
    return in_digits(plain) if _POWER.fullmatch(plain) else text


def _latex(number: Fraction) -> str:
    sign = "-" if number < 0 else ""
    return f"{sign}\\frac{{{abs(number.numerator)}}}{{{number.denominator}}}"


def _is_date(text: str) -> bool:
    return len(text) <= _LONGEST_TIME and _DATES.fullmatch(_spoken(text)) is not None


def _is_time(text: str) -> bool:
    """Whether a text is dates and times of day, and words, and nothing else."""
    if len(text) > _LONGEST_TIME:
        return False
    rest, found = _TIMES.subn(" ", _spoken(text))
    return bool(found) and not re.search(r"[^a-z,.; -]", rest)


def _spoken(text: str) -> str:
    """Text as it is compared: `10:30 \\text{ a.m.}` is `10:30 am`."""
    text = re.sub(r"\\[,;! ]|~|\$", " ", text)
    return re.sub(r"\s*\b([ap])\.?\s?m\b\.?", r" \1m", plain_text(text))


def _library() -> Any:
    try:
        import logging

        from math_verify import parse, verify
    except ImportError as error:
        raise RewardError(f"mathematical answers need math-verify ({error}); `pip install 'es_llm[tasks]'`") from error
    # The time limit is ours, since its own is lost in libraries that catch it; math-verify warns that it is off.
    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return parse, verify
