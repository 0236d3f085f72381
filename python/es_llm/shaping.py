"""Shaping rules by name: a rule of the core (`_core.SHAPING_RULES`), or a Python function.

A rule is a function: float64 array (M,) of the fitness of the members that count -> their shaped fitness Z, M finite
numbers. The values are finite, in member order, and not all equal. A rule in another package is found by an entry point
in the group `es_llm.shaping_rules`, or by `file.py:NAME`. The record holds the leader's Z, so a rule may use any
arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from es_llm._core import SHAPING_RULES
from es_llm.errors import ConfigError
from es_llm.plugins import failure, load_function

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ShapingRule: TypeAlias = "str | Callable[[NDArray[np.float64]], Sequence[float]]"

_SHOWN: Final = 200
"""Characters of a wrong result that a message shows."""


def load_shaping(name: str) -> ShapingRule:
    """The rule of a name, as `_core.Population` takes it: the name of a core rule, or a function.

    Raises:
        ConfigError: there is no such rule, or its file can't be used.
    """
    if name in SHAPING_RULES:
        return name
    return checked(load_function("shaping rule", name, dict.fromkeys(SHAPING_RULES, ""), attribute="shape"), name)


def checked(rule: Callable[[NDArray[np.float64]], Any], name: str) -> ShapingRule:
    """A rule whose errors name what was wrong. The core raises them as errors of the rule `name`."""

    def shape(fitness: NDArray[np.float64]) -> Sequence[float]:
        try:
            given = rule(fitness.copy())
        except Exception as error:
            raise ConfigError(failure(rule, error)) from error
        if len(values := _numbers(given)) != len(fitness):
            got = f"{len(values)} numbers" if values else " ".join(repr(given).split())[:_SHOWN]
            raise ConfigError(f"expected a finite number for each of the {len(fitness)} members, got {got}")
        return values

    shape.__name__ = name
    return shape


def _numbers(given: Any) -> list[float]:
    """A sequence of finite numbers as floats; empty for anything else."""
    import numpy as np

    try:
        if np.asarray(given).dtype.kind in "cSU":  # complex numbers and text would be converted
            return []
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        return []
    return values.tolist() if values.ndim == 1 and np.isfinite(values).all() else []
