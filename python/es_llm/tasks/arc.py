"""Grids in the shape of ARC-AGI: from a few pairs of grids, write a program that makes each output of its input.

    es-llm train --task arc --dataset_name path/to/rows.jsonl       # rows with `train` and `test` lists of pairs

The own problems are turns, mirrors, recolourings and frames of small grids. The program runs in a sandbox of Linux (see
`docs/security.md`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

from es_llm.data.messages import TextPrompts
from es_llm.errors import ConfigError
from es_llm.rewards.arc import arc_accuracy, code_of
from es_llm.rewards.sandbox import require_sandbox
from es_llm.tasks.base import Splits, Task, column
from es_llm.types import Row

Grid = list[list[int]]

INSTRUCTION = (
    "Each grid holds colours as digits, one row per line. Find the rule that makes each output of its input, and write "
    "it as a Python function transform(grid) that takes and returns a list of rows. Answer with one block of code."
)


def build(*, train_size: int = 200, eval_size: int = 200, seed: int = 0, data: Splits | None = None) -> Task:
    """The task.

    Args:
        train_size: own problems to train on.
        eval_size: own problems held out.
        seed: of the own problems.
        data: other rows, with lists `train` and `test` of pairs `{"input": grid, "output": grid}`.

    Raises:
        ConfigError: a negative size, or a row of `data` lacks something.
        RewardError: this system offers no sandbox.
    """
    for option, value in (("train_size", train_size), ("eval_size", eval_size), ("seed", seed)):
        if value < 0:
            raise ConfigError(f"`{option}` must be >= 0, got {value}")
    require_sandbox()

    def adapt(row: Mapping[str, Any]) -> Row:
        return {"prompt": _prompt(column(row, "train"), column(row, "test")), "test": json.dumps(row["test"])}

    own = Splits(train=_problems("train", train_size, seed), eval=_problems("eval", eval_size, seed))
    train, held_out = (data or own).adapted(adapt)
    return Task(
        name="arc",
        train=train,
        eval=held_out,
        reward_funcs=(arc_accuracy,),
        answer_of=code_of,
        text_prompts=TextPrompts(questions=True),
    )


def _prompt(shown: list[Any], asked: list[Any]) -> str:
    pairs = "".join(f"\nInput\n{_text(pair['input'])}\nOutput\n{_text(pair['output'])}\n" for pair in shown)
    tests = "".join(f"\nInput to transform\n{_text(pair['input'])}\n" for pair in asked)
    return f"{INSTRUCTION}\n{pairs}{tests}\n"


def _text(grid: Grid) -> str:
    return "\n".join("".join(map(str, row)) for row in grid)


def _problems(split: str, size: int, seed: int) -> list[Row]:
    """Problems of our own; the grids of a split are drawn from its own stream."""
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
    lambda colour: lambda grid: [row[::-1] for row in grid],
    lambda colour: lambda grid: grid[::-1],
    lambda colour: lambda grid: [list(row) for row in zip(*grid, strict=True)],
    lambda colour: lambda grid: [[colour if cell == 0 else cell for cell in row] for row in grid],
    lambda colour: lambda grid: [[colour] * (len(grid[0]) + 2), *([colour, *row, colour] for row in grid),
                                 [colour] * (len(grid[0]) + 2)],
)  # fmt: skip
