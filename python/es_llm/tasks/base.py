"""What a task is: rows to train and evaluate on, and functions that score completions.

Knows nothing about models, tokenizers or the optimiser. A row is a mapping with the key `prompt` (text or messages) and
one key per column that the functions need; the functions receive each column as a list, in TRL's manner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from es_llm.errors import ConfigError
from es_llm.types import RewardFunction, Row


@dataclass(frozen=True, kw_only=True)
class Task:
    """A named problem. Metrics have the contract of rewards; their figure is the mean over completions.

    `train` may be a stream, `eval` may be empty; `reward_funcs` are empty only for `rows`.
    """

    name: str
    train: Iterable[Row]
    eval: Sequence[Row]
    reward_funcs: tuple[RewardFunction, ...]
    metric_funcs: Mapping[str, RewardFunction] = field(default_factory=dict)
    answer_of: Callable[[str], str | None] = str.strip
    """The answer in a completion's text, as majority votes count it; None: it has none."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The rows of a data set in place of a task's own. `train` may be a `datasets.IterableDataset`."""

    train: Iterable[Mapping[str, Any]]
    eval: Iterable[Mapping[str, Any]]

    def adapted(self, adapt: Callable[[Mapping[str, Any]], Row]) -> tuple[Iterable[Row], list[Row]]:
        """Train and eval rows, each made by `adapt`; a stream stays one.

        Raises:
            ConfigError: a row lacks what the task needs; says which.
        """
        return _adapted(self.train, adapt, "train"), list(_each(self.eval, adapt, "eval"))


def column(row: Mapping[str, Any], *names: str) -> Any:
    """The first of these columns that the row has.

    Raises:
        KeyError: it has none of them.
    """
    for name in names:
        if row.get(name) is not None:
            return row[name]
    raise KeyError(" or ".join(map(repr, names)))


def written(value: Any) -> str:
    """An answer as text; a number with all its digits and without an exponent, which readers of answers don't know."""
    plain = isinstance(value, float) and math.isfinite(value)
    return format(Decimal(repr(float(value))), "f") if plain else str(value)


def _adapted(rows: Iterable[Mapping[str, Any]], adapt: Callable[[Mapping[str, Any]], Row], split: str) -> Iterable[Row]:
    if hasattr(rows, "set_epoch") and not hasattr(rows, "__len__"):
        return _AdaptedStream(rows, adapt)
    return list(_each(rows, adapt, split))


def _each(rows: Iterable[Mapping[str, Any]], adapt: Callable[[Mapping[str, Any]], Row], split: str) -> Iterator[Row]:
    for number, row in enumerate(rows):
        try:
            yield adapt(row)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"row {number} of `{split}` can't be used by this task: {error}; it has the columns {sorted(row)} "
                "(see `dataset_columns`)"
            ) from error


class _AdaptedStream:
    """A stream whose rows are made by `adapt` as they come."""

    def __init__(self, stream: Any, adapt: Callable[[Mapping[str, Any]], Row]) -> None:
        self._stream, self._adapt = stream, adapt

    def shuffle(self, *, seed: int, buffer_size: int) -> _AdaptedStream:
        return _AdaptedStream(self._stream.shuffle(seed=seed, buffer_size=buffer_size), self._adapt)

    def set_epoch(self, epoch: int) -> None:
        self._stream.set_epoch(epoch)

    def __iter__(self) -> Iterator[Row]:
        return _each(self._stream, self._adapt, "train")
