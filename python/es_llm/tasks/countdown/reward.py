"""Rewards of Countdown: reach a target using every given number exactly once (Qiu et al., arXiv 2509.24372).

Two shapes of answer. *Paper*: the prompt ends with an opened `<think>`; the completion goes on thinking,
closes the block and writes `<answer>expression</answer>`.

    reward = 0.1 * format + answer
    format = 1    the text is one think block, a newline, one answer block, and nothing else
             else 0.1 (there is a think block) + 0.5 (there is an answer block)
    answer = 1    the last answer block holds an expression of digits, + - * / ( ) and spaces that uses
                  exactly the given numbers and equals the target within 1e-5; else 0

*Compact*, for the embedded tiny model: the whole completion is the expression.

    reward = 0.1 * format + answer
    format = 1    the completion is an expression that uses exactly the given numbers; else 0
    answer = 1    and it equals the target within 1e-5; else 0

Only completions are scored, never prompts. Every function follows TRL's contract: keyword arguments, one list
per dataset column, one float per completion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from es_llm.rewards.marks import inline
from es_llm.rewards.text import completion_text
from es_llm.tasks.countdown.arithmetic import try_evaluate

FORMAT_WEIGHT = 0.1
TOLERANCE = Fraction(1, 100_000)


@inline
def countdown_reward(
    completions: Sequence[Any], numbers: Sequence[Sequence[int]], target: Sequence[float], **columns: Any
) -> list[float]:
    """Paper shape: 0.1 * format + answer, in [0, 1.1].

    Raises:
        ValueError: the columns differ in length.
    """
    return [
        FORMAT_WEIGHT * format_score(text) + answer_score(text, given, goal)
        for text, given, goal in _rows(completions, numbers, target, THINK_OPEN)
    ]


@inline
def countdown_accuracy(
    completions: Sequence[Any], numbers: Sequence[Sequence[int]], target: Sequence[float], **columns: Any
) -> list[float]:
    """Paper shape: 1.0 where the answer part is 1, else 0.0."""
    return [answer_score(text, given, goal) for text, given, goal in _rows(completions, numbers, target, THINK_OPEN)]


@inline
def compact_reward(
    completions: Sequence[Any], numbers: Sequence[Sequence[int]], target: Sequence[float], **columns: Any
) -> list[float]:
    """Compact shape: 0.1 * format + answer, in [0, 1.1]."""
    return [
        FORMAT_WEIGHT * uses_numbers(text, given) + expression_score(text, given, goal)
        for text, given, goal in _rows(completions, numbers, target, "")
    ]


@inline
def compact_accuracy(
    completions: Sequence[Any], numbers: Sequence[Sequence[int]], target: Sequence[float], **columns: Any
) -> list[float]:
    """Compact shape: 1.0 where the whole completion is a right expression, else 0.0."""
    return [expression_score(text, given, goal) for text, given, goal in _rows(completions, numbers, target, "")]


THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"


def format_score(text: str) -> float:
    """Format part of a whole text (its opened `<think>` included): 1.0, 0.6, 0.5, 0.1 or 0.0."""
    if _is_exact_format(text):
        return 1.0
    has_think = _last_block(text, THINK_OPEN, THINK_CLOSE) is not None
    has_answer = _last_block(text, ANSWER_OPEN, ANSWER_CLOSE) is not None
    # Written as cases, since 0.1 + 0.5 is a sum that readers would compare with 0.6.
    return (0.6 if has_answer else 0.1) if has_think else (0.5 if has_answer else 0.0)


def answer_score(text: str, numbers: Sequence[int], target: float) -> float:
    """Answer part of a whole text: 1.0 when its last answer block is right, else 0.0."""
    block = _last_block(text, ANSWER_OPEN, ANSWER_CLOSE)
    return 0.0 if block is None else expression_score(block, numbers, target)


def expression_score(expression: str, numbers: Sequence[int], target: float) -> float:
    """1.0 when `expression` uses exactly the multiset `numbers` and equals `target` within 1e-5, else 0.0."""
    value = _value_with(expression, numbers)
    return 0.0 if value is None or abs(value - Fraction(target)) > TOLERANCE else 1.0


def uses_numbers(expression: str, numbers: Sequence[int]) -> float:
    """1.0 when `expression` has a value and uses exactly the multiset `numbers`, else 0.0."""
    return 0.0 if _value_with(expression, numbers) is None else 1.0


def _value_with(expression: str, numbers: Sequence[int]) -> Fraction | None:
    evaluated = try_evaluate(expression)
    if evaluated is None or Counter(evaluated.literals) != Counter(map(Fraction, numbers)):
        return None
    return evaluated.value


def _is_exact_format(text: str) -> bool:
    """Whether `text` is one think block, a newline, one answer block: each tag once, nothing around."""
    tags = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)
    return (
        all(text.count(tag) == 1 for tag in tags)
        and text.startswith(THINK_OPEN)
        and text.endswith(ANSWER_CLOSE)
        and f"{THINK_CLOSE}\n{ANSWER_OPEN}" in text
    )


def _last_block(text: str, opening: str, closing: str) -> str | None:
    """Content of the block that starts at the last `opening` with a `closing` after it; None without one.

    An opening tag that is only mentioned ("I shall use <answer>") therefore starts no block when a later one
    does. Linear in `len(text)`.
    """
    last_closing = text.rfind(closing)
    if last_closing < 0:
        return None
    start = text.rfind(opening, 0, last_closing)
    if start < 0:
        return None
    start += len(opening)
    return text[start : text.find(closing, start)]


def _rows(
    completions: Sequence[Any], numbers: Sequence[Sequence[int]], target: Sequence[float], opened: str
) -> list[tuple[str, Sequence[int], float]]:
    if not len(completions) == len(numbers) == len(target):
        raise ValueError(
            f"`completions`, `numbers` and `target` must be equally long, "
            f"got {len(completions)}, {len(numbers)} and {len(target)}"
        )
    texts = [opened + completion_text(completion) for completion in completions]
    return list(zip(texts, numbers, target, strict=True))
