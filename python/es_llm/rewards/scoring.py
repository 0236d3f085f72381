"""Several reward functions over one batch of completions: one weighted reward per completion, failures counted.

Knows nothing about models or populations. A failed reward is None here, a failed cell in the fitness table, and
never a NaN in a sum.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from es_llm.errors import ConfigError, RewardError
from es_llm.types import RewardFunction, Row

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What reward functions see: B prompts, their completions, and the columns of their rows."""

    prompts: Sequence[Any]
    completions: Sequence[Any]
    completion_ids: Sequence[Sequence[int]]
    columns: Mapping[str, Sequence[Any]]

    @staticmethod
    def of(rows: Sequence[Row], completions: Sequence[str], completion_ids: Sequence[Sequence[int]]) -> Batch:
        """A batch from rows; conversational prompts get conversational completions, as in TRL."""
        names = [name for name in rows[0] if name != "prompt"] if rows else []
        prompts = [row["prompt"] for row in rows]
        answers: list[Any] = [
            text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
            for prompt, text in zip(prompts, completions, strict=True)
        ]
        columns = {name: [row[name] for row in rows] for name in names}
        return Batch(prompts=prompts, completions=answers, completion_ids=completion_ids, columns=columns)


@dataclass
class RewardSet:
    """Reward functions with weights, in TRL's contract.

    reward of a completion = sum over the functions that gave a number of weight * number; None when none did.
    `failures` counts per function the completions it failed on: it raised, or gave NaN, inf or no number.
    """

    functions: Sequence[RewardFunction]
    weights: Sequence[float] | None = None
    failures: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Name the functions; equal names are numbered.

        Raises:
            ConfigError: no function, something that can't be called, or another number of weights.
        """
        if not self.functions:
            raise ConfigError("`reward_funcs` must hold at least one function, got none")
        for function in self.functions:
            if not callable(function):
                raise ConfigError(f"`reward_funcs` must hold functions, got {function!r}")
        if self.weights is None:
            self.weights = [1.0] * len(self.functions)
        if len(self.weights) != len(self.functions):
            raise ConfigError(
                f"`reward_weights` must hold one number per reward function ({len(self.functions)}), "
                f"got {len(self.weights)}"
            )
        if not all(math.isfinite(weight) for weight in self.weights):
            raise ConfigError(f"`reward_weights` must be finite, got {self.weights}")
        self.names = distinct_names(self.functions)
        self.failures = dict.fromkeys(self.names, 0)

    def score(self, batch: Batch) -> list[float | None]:
        """One reward per completion of the batch; None where no function gave one."""
        assert self.weights is not None
        totals: list[float | None] = [None] * len(batch.completions)
        for name, function, weight in zip(self.names, self.functions, self.weights, strict=True):
            values, failed = call_reward(name, function, batch)
            self.failures[name] += failed
            for index, value in enumerate(values):
                if value is not None:
                    totals[index] = (totals[index] or 0.0) + weight * value
        return totals


def call_reward(name: str, function: RewardFunction, batch: Batch) -> tuple[list[float | None], int]:
    """Scores of one function, and on how many completions it failed. Never raises an `Exception`: an error of
    the function, or an answer of the wrong shape, fails the whole batch and is logged with its traceback."""
    try:
        answer = function(
            prompts=batch.prompts,
            completions=batch.completions,
            completion_ids=batch.completion_ids,
            **batch.columns,
        )
        return _checked(name, answer, len(batch.completions))
    except Exception as error:
        logger.warning("reward function `%s` failed on %d completions: %r", name, len(batch.completions), error)
        logger.debug("traceback of `%s`", name, exc_info=True)
        return [None] * len(batch.completions), len(batch.completions)


def distinct_names(functions: Sequence[RewardFunction]) -> list[str]:
    """`__name__` of each function; names that clash get a number: f, f_2, f_3."""
    names: list[str] = []
    for function in functions:
        name = base = getattr(function, "__name__", type(function).__name__)
        number = 1
        while name in names:
            number += 1
            name = f"{base}_{number}"
        names.append(name)
    return names


def _checked(name: str, answer: Any, expected: int) -> tuple[list[float | None], int]:
    values = list(answer)
    if len(values) != expected:
        raise RewardError(f"`{name}` must return {expected} rewards, got {len(values)}")
    checked = [_number(value) for value in values]
    failed = sum(value is None and given is not None for value, given in zip(checked, values, strict=True))
    return checked, failed


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, str | bytes):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
