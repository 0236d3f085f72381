"""Schedules of hyper-parameters by name: sigma and the learning rate of each iteration. A new schedule is one new
file.

A schedule is a function `factor(config, iteration, **arguments) -> float`. Its value multiplies the option `sigma` or
`learning_rate`. Its arguments are the option `sigma_scheduler_kwargs` or `lr_scheduler_kwargs`. A schedule in another
package is found by an entry point in the group `es_llm.schedules`, or by `file.py:NAME`. Records hold the values that
were used, so a replay calls no schedule.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from es_llm.errors import ConfigError
from es_llm.plugins import guarded, load_function, names_in

if TYPE_CHECKING:
    from es_llm.config import ESConfig

Schedule: TypeAlias = "Callable[..., float]"
"""(options, iteration counted from 0, **arguments) -> factor, finite and > 0. A pure function: every rank calls it."""


@dataclass(frozen=True)
class HyperParameters:
    """The hyper-parameters of one iteration. Its record holds them."""

    sigma: float
    learning_rate: float


def hyperparameters(config: ESConfig, iteration: int) -> HyperParameters:
    """The hyper-parameters of an iteration (counted from 0).

    Raises:
        ConfigError: there is no such schedule, or it returns no factor.
    """
    return HyperParameters(
        sigma=config.sigma * _factor(config.sigma_scheduler_type, config, iteration, config.sigma_scheduler_kwargs),
        learning_rate=config.learning_rate
        * _factor(config.lr_scheduler_type, config, iteration, config.lr_scheduler_kwargs),
    )


BUILTIN: Final = names_in(__name__, __path__, "factor")
"""Name of a schedule of this package -> where it is."""


@functools.cache
def load_schedule(name: str) -> Schedule:
    """The schedule of a name.

    Raises:
        ConfigError: there is no such schedule, or its file can't be used.
    """
    return guarded(f"schedule {name!r}", load_function("schedule", name, BUILTIN, attribute="factor"))


def _factor(name: str, config: ESConfig, iteration: int, arguments: Mapping[str, Any]) -> float:
    factor: Any = load_schedule(name)(config, iteration, **arguments)
    try:
        value = math.nan if isinstance(factor, str | bytes) else float(factor)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several values
        value = math.nan
    if not 0.0 < value < math.inf:
        raise ConfigError(
            f"schedule {name!r} must return a finite factor > 0, got {factor!r} for `iteration` {iteration}, which is "
            f"iteration {iteration + 1} of the run"
        )
    return value
