"""Grids in the shape of ARC-AGI: the model writes a Python function `transform(grid)`, which runs in the sandbox."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from es_llm.rewards.sandbox import require_sandbox, run_function
from es_llm.rewards.text import completion_text

LONGEST: Final = 20_000
"""Characters of code that are run; longer code is wrong."""
_BLOCK: Final = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)


def arc_accuracy(completions: Sequence[Any], test: Sequence[str], **columns: Any) -> list[float]:
    """1.0 where the completion's `transform` makes every test output of its input, else 0.0.

    Args:
        completions: with Python code in their last fenced block, or nothing but code.
        test: the pairs as JSON, `[{"input": grid, "output": grid}, ...]`, a grid being rows of digits.

    Raises:
        RewardError: this system offers no sandbox.
    """
    require_sandbox()
    return [_score(completion_text(text), json.loads(pairs)) for text, pairs in zip(completions, test, strict=True)]


def code_of(text: str) -> str:
    """The last fenced block of code, else the whole text."""
    blocks = _BLOCK.findall(text)
    return blocks[-1] if blocks else text


def _score(text: str, pairs: list[dict[str, Any]]) -> float:
    code = code_of(text)
    if "def transform" not in code or len(code) > LONGEST:
        return 0.0
    ran = run_function(code, "transform", [pair["input"] for pair in pairs])
    return float(ran.values is not None and _same(ran.values, [pair["output"] for pair in pairs]))


def _same(got: Any, wanted: Any) -> bool:
    """Equal lists of whole numbers; True is not 1."""
    if isinstance(wanted, list):
        return isinstance(got, list) and len(got) == len(wanted) and all(map(_same, got, wanted))
    return type(got) in (int, float) and got == wanted
