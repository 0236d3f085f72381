"""Grids in the shape of ARC-AGI: from a few pairs of grids, write a program that turns each input into its output.

    es-llm train --task arc --dataset_name path/to/rows.jsonl       # rows with `train` and `test` lists of pairs

The task's own problems are turns, mirrors, recolorings and frames of small grids. The model writes a Python function
`transform(grid)`, which runs in a sandbox of Linux (see `docs/security.md`).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from es_llm.rewards.sandbox import require_sandbox, run_function
from es_llm.rewards.text import completion_text
from es_llm.tasks.base import Splits, Task, column, own_problems, question_task
from es_llm.types import Row

Grid = list[list[int]]

INSTRUCTION = (
    "Each grid holds colours as digits, one row per line. Find the rule that makes each output of its input, and write "
    "it as a Python function transform(grid) that takes and returns a list of rows. Answer with one block of code."
)
MAX_CODE: Final = 20_000
"""Characters of code that are run. Longer code is wrong."""


def build(*, train_size: int = 200, eval_size: int = 200, seed: int = 0, data: Splits | None = None) -> Task:
    """The task. `data` are rows that replace the own problems, with lists `train` and `test` of pairs
    `{"input": grid, "output": grid}`."""
    require_sandbox()

    def adapt(row: Mapping[str, Any]) -> Row:
        return {"prompt": _prompt(column(row, "train"), column(row, "test")), "test": json.dumps(row["test"])}

    splits = own_problems(_problems, train_size=train_size, eval_size=eval_size, seed=seed, data=data)
    return question_task("arc", splits, adapt, reward_funcs=(arc_accuracy,), answer_of=code_of)


def arc_accuracy(completions: Sequence[Any], test: Sequence[str], **columns: Any) -> list[float]:
    """1.0 where the completion's `transform` turns every test input into its output, else 0.0.

    Raises:
        RewardError: this system offers no sandbox.
    """
    require_sandbox()
    return [_reward(completion_text(text), json.loads(pairs)) for text, pairs in zip(completions, test, strict=True)]


def code_of(text: str) -> str:
    """The last fenced block of code, or the whole text if it has none."""
    blocks = _BLOCK.findall(text)
    return blocks[-1] if blocks else text


_BLOCK: Final = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


def _reward(text: str, pairs: list[dict[str, Any]]) -> float:
    code = code_of(text)
    if "def transform" not in code or len(code) > MAX_CODE:
        return 0.0
    ran = run_function(code, "transform", [pair["input"] for pair in pairs])
    return float(ran.values is not None and _equal(ran.values, [pair["output"] for pair in pairs]))


def _equal(got: Any, expected: Any) -> bool:
    """True for equal lists of whole numbers. `True` is not 1."""
    if isinstance(expected, list):
        return isinstance(got, list) and len(got) == len(expected) and all(map(_equal, got, expected))
    return type(got) in (int, float) and got == expected


def _prompt(shown: list[Any], asked: list[Any]) -> str:
    pairs = "".join(f"\nInput\n{_text(pair['input'])}\nOutput\n{_text(pair['output'])}\n" for pair in shown)
    tests = "".join(f"\nInput to transform\n{_text(pair['input'])}\n" for pair in asked)
    return f"{INSTRUCTION}\n{pairs}{tests}\n"


def _text(grid: Grid) -> str:
    return "\n".join("".join(map(str, row)) for row in grid)


def _problems(split: str, size: int, seed: int) -> list[Row]:
    """The built-in problems. Each split draws its grids from a separate random stream."""
    stream = random.Random(f"es_llm/arc/{split}/{seed}")
    rows: list[Row] = []
    for _ in range(size):
        rule = _RULES[int(stream.random() * len(_RULES))](1 + int(stream.random() * 8))
        grids = [_grid(stream) for _ in range(4)]
        pairs = [{"input": grid, "output": rule(grid)} for grid in grids]
        rows.append({"train": pairs[:3], "test": pairs[3:]})
    return rows


def _grid(stream: random.Random) -> Grid:
    height, width = (2 + int(stream.random() * 4) for _ in range(2))
    return [[int(stream.random() * 10) for _ in range(width)] for _ in range(height)]


_RULES: tuple[Callable[[int], Callable[[Grid], Grid]], ...] = (
    lambda color: lambda grid: [row[::-1] for row in grid],
    lambda color: lambda grid: grid[::-1],
    lambda color: lambda grid: [list(row) for row in zip(*grid, strict=True)],
    lambda color: lambda grid: [[color if cell == 0 else cell for cell in row] for row in grid],
    lambda color: lambda grid: [[color] * (len(grid[0]) + 2), *([color, *row, color] for row in grid),
                                [color] * (len(grid[0]) + 2)],
)  # fmt: skip
