"""Shaping rules by name: a rule of the core (`_core.SHAPING_RULES`), or a Python function.

A rule is a function: float64 array (M,) of the fitness of the members that count -> their shaped fitness Z, M finite
numbers. The values are finite, in member order, and not all equal. A rule in another package is found by an entry point
in the group `es_llm.shaping_rules`, or by `file.py:NAME`. The record holds the leader's Z, so a rule may use any
arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from es_llm._core import SHAPING_RULES
from es_llm.plugins import resolve

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ShapingRule: TypeAlias = "str | Callable[[NDArray[np.float64]], Sequence[float]]"


def load_shaping(name: str) -> ShapingRule:
    """The rule of a name, as `_core.Population` takes it: the name of a core rule, or a function.

    Raises:
        ConfigError: there is no such rule, or its file can't be used.
    """
    if name in SHAPING_RULES:
        return name
    rule: ShapingRule = resolve("shaping rule", name, {}, attribute="shape")
    return rule
