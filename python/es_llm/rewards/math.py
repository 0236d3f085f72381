"""Mathematical answers: the content of the last box is compared with the right one by math-verify."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from es_llm.errors import RewardError
from es_llm.rewards.text import completion_text

LONGEST: Final = 1000
"""Characters of a box that is read; a longer one is wrong."""
_BOX: Final = ("\\boxed{", "\\fbox{")


def math_accuracy(completions: Sequence[Any], answer: Sequence[str], **columns: Any) -> list[float | None]:
    """1.0 where the boxed answer of the completion equals the row's `answer` (LaTeX, boxed or not), else 0.0; None
    where the row's can't be read.

    Parsing can be slow on odd texts: this function belongs into a worker, under a time limit.

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
    parse, verify = _library()
    right = parse(f"\\boxed{{{gold}}}", parsing_timeout=None)
    if not right:
        return None
    return bool(verify(right, parse(f"\\boxed{{{answer}}}", parsing_timeout=None), timeout_seconds=None))


def _score(text: str, gold: str) -> float | None:
    boxed = last_box(gold)
    gold = gold if boxed is None else boxed
    answer = last_box(text)
    if answer is None or not answer.strip():
        return 0.0
    told = equal(answer, gold)
    return None if told is None else float(told)


def _library() -> Any:
    try:
        import logging

        from math_verify import parse, verify
    except ImportError as error:
        raise RewardError(f"mathematical answers need math-verify ({error}); `pip install 'es_llm[tasks]'`") from error
    # The time limit is the worker's; math-verify warns that its own is off.
    for name in ("math_verify.parser", "math_verify.grader"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return parse, verify
