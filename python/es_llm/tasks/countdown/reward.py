"""Rewards of Countdown: reach a target using every given number exactly once (Qiu et al., arXiv 2509.24372).

Answers have two shapes. *Paper*: the prompt ends with an opening `<think>`; the completion continues the block, closes
it and writes `<answer>expression</answer>`.

    reward = 0.1 * format + answer
    format = 1    the text is one think block, a newline, one answer block, and nothing else
             else 0.1 (there is a think block) + 0.5 (there is an answer block)
    answer = 1    the last answer block holds an expression of digits, + - * / ( ) and spaces that uses
                  exactly the given numbers and equals the target within 1e-5; else 0

*Compact*, for the embedded tiny model: the whole completion is the expression.

    reward = 0.1 * format + answer
    format = 1    the completion is an expression that uses exactly the given numbers; else 0
    answer = 1    and it equals the target within 1e-5; else 0

Rewards depend on completions alone, never on prompts. Every function follows TRL's contract: keyword arguments, one
list per column of the data, one float per completion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from es_llm.rewards import inline
from es_llm.rewards.text import completion_text
from es_llm.tasks.countdown.arithmetic import evaluate

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
        FORMAT_WEIGHT * format_reward(text) + answer_reward(text, given, goal)
        for text, given, goal in _rows(completions, numbers, target, THINK_OPEN)
    ]


@inline
def countdown_accuracy(
    completions: Sequence[Any], numbers: Sequence[Sequence[int]], target: Sequence[float], **columns: Any
) -> list[float]:
    """Paper shape: 1.0 where the answer part is 1, else 0.0."""
    return [answer_reward(text, given, goal) for text, given, goal in _rows(completions, numbers, target, THINK_OPEN)]


@inline
def compact_reward(
    completions: Sequence[Any], numbers: Sequence[Sequence[int]], target: Sequence[float], **columns: Any
) -> list[float]:
    """Compact shape: 0.1 * format + answer, in [0, 1.1]."""
    return [
        FORMAT_WEIGHT * uses_numbers(text, given) + expression_reward(text, given, goal)
        for text, given, goal in _rows(completions, numbers, target, "")
    ]


@inline
def compact_accuracy(
    completions: Sequence[Any], numbers: Sequence[Sequence[int]], target: Sequence[float], **columns: Any
) -> list[float]:
    """Compact shape: 1.0 where the whole completion is a right expression, else 0.0."""
    return [expression_reward(text, given, goal) for text, given, goal in _rows(completions, numbers, target, "")]


THINK_OPEN, THINK_CLOSE = "<think>", "</think>"
ANSWER_OPEN, ANSWER_CLOSE = "<answer>", "</answer>"


def format_reward(text: str) -> float:
    """Format part for a whole text, its opening `<think>` included: 1.0, 0.6, 0.5, 0.1 or 0.0."""
    if _is_exact_format(text):
        return 1.0
    has_think = _last_block(text, THINK_OPEN, THINK_CLOSE) is not None
    has_answer = _last_block(text, ANSWER_OPEN, ANSWER_CLOSE) is not None
    # Cases, and not a sum: 0.1 + 0.5 need not equal 0.6.
    return (0.6 if has_answer else 0.1) if has_think else (0.5 if has_answer else 0.0)


def answer_reward(text: str, numbers: Sequence[int], target: float) -> float:
    """Answer part for a whole text: 1.0 if its last answer block is right, else 0.0."""
    block = _last_block(text, ANSWER_OPEN, ANSWER_CLOSE)
    return 0.0 if block is None else expression_reward(block, numbers, target)


def expression_reward(expression: str, numbers: Sequence[int], target: float) -> float:
    """1.0 if `expression` uses exactly the multiset `numbers` and equals `target` within 1e-5, else 0.0."""
    value = _value_with(expression, numbers)
    return 0.0 if value is None or abs(value - Fraction(target)) > TOLERANCE else 1.0


def uses_numbers(expression: str, numbers: Sequence[int]) -> float:
    """1.0 if `expression` has a value and uses exactly the multiset `numbers`, else 0.0."""
    return 0.0 if _value_with(expression, numbers) is None else 1.0


def _value_with(expression: str, numbers: Sequence[int]) -> Fraction | None:
    evaluated = evaluate(expression)
    if evaluated is None or Counter(evaluated.literals) != Counter(map(Fraction, numbers)):
        return None
    return evaluated.value


def _is_exact_format(text: str) -> bool:
    """True if `text` is one think block, a newline and one answer block, with each tag once and nothing around."""
    tags = (THINK_OPEN, THINK_CLOSE, ANSWER_OPEN, ANSWER_CLOSE)
    return (
        all(text.count(tag) == 1 for tag in tags)
        and text.startswith(THINK_OPEN)
        and text.endswith(ANSWER_CLOSE)
        and f"{THINK_CLOSE}\n{ANSWER_OPEN}" in text
    )


def _last_block(text: str, opening: str, closing: str) -> str | None:
    """Content of the block that starts at the last `opening` with a `closing` after it; None if there is no block.

    So an opening tag that is only mentioned ("I shall use <answer>") starts no block if a later one does. The time is
    linear in `len(text)`.
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
            f"`completions`, `numbers` and `target` must have the same length, "
            f"got {len(completions)}, {len(numbers)} and {len(target)}"
        )
    texts = [opened + completion_text(completion) for completion in completions]
    return list(zip(texts, numbers, target, strict=True))
