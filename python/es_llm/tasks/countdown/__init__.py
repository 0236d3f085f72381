"""Countdown: reach a target with given numbers, each used exactly once, by + - * / and brackets.

The problems are generated in the shape of the paper's (Qiu et al., arXiv 2509.24372): half of them have three numbers,
half have four, and every target is an integer that can be reached. Two styles:

- `paper`: numbers 1..99, targets 10..99, and a prompt for an instruct model that ends with an opening `<think>`;
- `compact`: three numbers 1..20 in ascending order, targets 0..200, and a prompt of `PROMPT_WIDTH` characters for the
  embedded tiny model, which answers with the expression alone.

By default prompts are sent as they are, as in the paper, to an instruct model too. With `--chat chat` they go through
the chat template, and the assistant's message begins with the opening `<think>`.

Every row has the columns `prompt`, `numbers`, `target` and `solution`, which is one of the right expressions. A problem
is its sorted numbers and its target. A fixed hash puts every problem into one of two pools, for evaluation or for
training, whatever the seed and the sizes. So no evaluation problem of any run is a training problem of any run. The
embedded model's pretraining data come from the training pool too.

The random stream is `random.Random(text).random()`, the one method that Python promises to keep stable over versions.
"""

from __future__ import annotations

import functools
import random
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from es_llm.data.messages import TextPrompts, user_turn
from es_llm.errors import ConfigError
from es_llm.tasks.base import Task, own_problems
from es_llm.tasks.countdown.reward import (
    THINK_OPEN,
    compact_accuracy,
    compact_reward,
    countdown_accuracy,
    countdown_reward,
)
from es_llm.types import Message, Row

PROMPT_WIDTH = 13
"""Characters of every compact prompt. Equal lengths need no padding."""

HELD_OUT_SHARE = 16
"""One problem in 16 belongs to the evaluation pool."""


def build(*, style: str = "paper", train_size: int = 200, eval_size: int = 2000, seed: int = 0) -> Task:
    """The task, with `train_size` and `eval_size` distinct problems.

    The evaluation rows depend on `style`, `eval_size` and `seed` only. If a split grows, its first rows stay the same.
    """
    if style not in _STYLES:
        raise ConfigError(f"`style` must be one of {', '.join(sorted(_STYLES))}, got {style!r}")
    problems = functools.partial(_problems, style)
    splits = own_problems(problems, train_size=train_size, eval_size=eval_size, seed=seed)
    paper = style == "paper"
    return Task(
        name="countdown",
        train=splits.train,
        eval=list(splits.eval),
        reward_funcs=(countdown_reward if paper else compact_reward,),
        metric_funcs={"accuracy": countdown_accuracy if paper else compact_accuracy},
        text_prompts=TextPrompts(as_messages=_turns),
    )


def paper_prompt(numbers: list[int], target: int) -> str:
    """Prompt in the paper's shape. The completion begins inside the think block."""
    listed = ", ".join(map(str, numbers))
    return (
        f"Combine the numbers {listed} into an expression that equals {target}. Use every number exactly "
        "once, and only the operations + - * / and brackets. First reason step by step between <think> and "
        "</think>; then, on the next line, write nothing but the expression between <answer> and </answer>, "
        "as in <answer>(4 + 2) * 7</answer>.\n<think>"
    )


def _turns(prompt: str) -> list[Message]:
    """The prompt as messages. If it ends with an opening `<think>`, that becomes the assistant's message."""
    asked = prompt.removesuffix(THINK_OPEN)
    opened = [{"role": "assistant", "content": THINK_OPEN}] if asked != prompt else []
    return [*user_turn(asked), *opened]


def compact_prompt(numbers: list[int], target: int) -> str:
    """Prompt of the embedded model, with fixed columns and `PROMPT_WIDTH` characters."""
    first, second, third = numbers
    return f"{first:2d} {second:2d} {third:2d}={target:3d}:"


def is_held_out(numbers: list[int], target: int) -> bool:
    """True if the problem belongs to the evaluation pool, by a hash of its sorted numbers and target."""
    key = f"{' '.join(map(str, sorted(numbers)))} = {target}"
    return zlib.crc32(key.encode("ascii")) % HELD_OUT_SHARE == 0


@dataclass(frozen=True, kw_only=True)
class _Style:
    counts: tuple[int, ...]
    largest: int
    low: int
    high: int
    ascending: bool


_STYLES: Mapping[str, _Style] = {
    "paper": _Style(counts=(3, 4), largest=99, low=10, high=99, ascending=False),
    "compact": _Style(counts=(3,), largest=20, low=0, high=200, ascending=True),
}


def _problems(style: str, split: str, size: int, seed: int) -> list[Row]:
    chosen = _STYLES[style]
    stream = random.Random(f"es_llm/countdown/{style}/{split}/{seed}")
    prompt = paper_prompt if style == "paper" else compact_prompt
    rows: list[Row] = []
    seen: set[tuple[int, ...]] = set()
    fruitless = 0
    while len(rows) < size and fruitless < _FRUITLESS_DRAWS:
        fruitless += 1
        drawn = _draw(stream, chosen, chosen.counts[len(rows) % len(chosen.counts)])
        if drawn is None:
            continue
        numbers, target, solution = drawn
        key = (*sorted(numbers), target)
        if key in seen or is_held_out(numbers, target) != (split == "eval"):
            continue
        seen.add(key)
        fruitless = 0
        rows.append({"prompt": prompt(numbers, target), "numbers": numbers, "target": target, "solution": solution})
    if len(rows) < size:
        raise ConfigError(f"`{split}_size` {size}: style {style!r} gave only {len(rows)} distinct problems")
    return rows


_FRUITLESS_DRAWS = 30_000


def _draw(stream: random.Random, style: _Style, count: int) -> tuple[list[int], int, str] | None:
    """Draw numbers and combine them at random: (numbers, target, solution), or None if the style refuses the target."""
    numbers = [1 + int(stream.random() * style.largest) for _ in range(count)]
    if style.ascending:
        numbers.sort()
    values = numbers.copy()
    merges: list[tuple[int, int, str]] = []
    while len(values) > 1:
        left_at = int(stream.random() * len(values))
        right_at = int(stream.random() * (len(values) - 1))
        operator = "+-*/"[int(stream.random() * 4)]
        value = _combine(values.pop(left_at), values.pop(right_at), operator)
        if value is None:
            return None
        values.append(value)
        merges.append((left_at, right_at, operator))
    return (numbers, values[0], _write(numbers, merges)) if style.low <= values[0] <= style.high else None


def _combine(left: int, right: int, operator: str) -> int | None:
    if operator == "/":
        return left // right if right != 0 and left % right == 0 else None
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


def _write(numbers: list[int], merges: list[tuple[int, int, str]]) -> str:
    terms = [(str(number), 3) for number in numbers]  # precedence: 1 for + -, 2 for * /, 3 for a number
    for left_at, right_at, operator in merges:
        left, left_precedence = terms.pop(left_at)
        right, right_precedence = terms.pop(right_at)
        precedence = 1 if operator in "+-" else 2
        if left_precedence < precedence:
            left = f"({left})"
        if right_precedence < precedence or (right_precedence == precedence and operator in "-/"):
            right = f"({right})"
        terms.append((left + operator + right, precedence))
    return terms[0][0]
