"""Mathematics with boxed answers: a data set by name, or small problems of our own.

    es-llm train --task math --dataset_name HuggingFaceH4/MATH-500 --dataset_train_split test[:400] \\
        --dataset_test_split test[400:]

The own problems are linear equations, fractions and powers, for tests and first steps.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from es_llm.tasks.base import Splits, Task, column, own_problems, question_prompt, question_task
from es_llm.tasks.math.reward import last_box, latex, math_accuracy
from es_llm.tasks.reading import answer_text
from es_llm.types import Row

INSTRUCTION = "Reason step by step, and put your final answer within \\boxed{}."


def build(*, train_size: int = 200, eval_size: int = 200, seed: int = 0, data: Splits | None = None) -> Task:
    """The task. `data` are rows that replace the own problems, with a `problem` (or `question`) or a ready `prompt`,
    and an `answer` (or a `solution` that ends with a box)."""

    def adapt(row: Mapping[str, Any]) -> Row:
        prompt = question_prompt(row, "problem", "question", ending=f"\n\n{INSTRUCTION}\n")
        return {"prompt": prompt, "answer": answer_text(column(row, "answer", "solution"))}

    splits = own_problems(_problems, train_size=train_size, eval_size=eval_size, seed=seed, data=data)
    return question_task("math", splits, adapt, reward_funcs=(math_accuracy,), answer_of=last_box)


def _problems(split: str, size: int, seed: int) -> list[Row]:
    """Distinct own problems. The numbers of the two splits never agree."""
    stream = random.Random(f"es_llm/math/{split}/{seed}")
    rows: dict[str, Row] = {}
    while len(rows) < size:
        kind, a, b, c = int(stream.random() * 3), *(2 + int(stream.random() * 40) for _ in range(3))
        if ((a + b + c) % 5 == 0) != (split == "eval"):
            continue
        problem, answer = _KINDS[kind](a, b, c)
        rows[problem] = {"problem": problem, "answer": answer}
    return list(rows.values())


def _linear(a: int, b: int, c: int) -> tuple[str, str]:
    return f"Solve ${a}x + {b} = {c}$ for $x$.", latex(Fraction(c - b, a))


def _sum(a: int, b: int, c: int) -> tuple[str, str]:
    total = Fraction(1, a) + Fraction(c, b)
    return f"Write $\\frac{{1}}{{{a}}} + \\frac{{{c}}}{{{b}}}$ as one fraction.", latex(total)


def _square(a: int, b: int, c: int) -> tuple[str, str]:
    return f"What is $({a} - {b})^2 + {c}$?", str((a - b) ** 2 + c)


_KINDS = (_linear, _sum, _square)
