"""Several reward functions over one batch of completions: one weighted reward per completion, failures counted.

Knows nothing about models or populations. A failed reward is None here, a failed cell in the fitness table, and
never a NaN in a sum.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from es_llm.config.fields import nearest
from es_llm.errors import ConfigError
from es_llm.rewards.batch import Batch, Failure, Scores
from es_llm.rewards.call import GIVEN, call, lacking, takes
from es_llm.rewards.loading import same_directory
from es_llm.rewards.loop import Loop
from es_llm.rewards.marks import is_inline, is_set_level
from es_llm.rewards.workers.pool import RewardPool
from es_llm.types import RewardFunction

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a reward function may take.

    workers: processes that call reward functions; 0: they are called in this process, without limits.
    timeout_s: seconds for one completion (for a set-level function: for one call); 0: any time.
    memory_mb: megabytes for a worker beyond what it has at its start; 0: no limit.
    """

    workers: int = 0
    timeout_s: float = 0.0
    memory_mb: int = 0


@dataclass(frozen=True, kw_only=True)
class Graded:
    """`totals`: one reward per completion, None where no function gave one. `scores`: each function's own, by name."""

    totals: list[float | None]
    scores: dict[str, Scores]


class RewardSet:
    """Reward functions with weights, in TRL's contract; and metrics, functions of the same contract without a weight.

    reward of a completion = sum over the functions that gave a number of weight * number; None when none did, or when
    one of them failed on it: a reward with a part missing can't be compared with a whole one.
    `examples` keeps the first failure of each function; `silent` are those that gave no number so far.

    Raises:
        ConfigError: no function, something that can't be called or can't travel to a worker, or another number of
            weights.
    """

    def __init__(
        self,
        functions: Sequence[RewardFunction],
        weights: Sequence[float] | None = None,
        *,
        metrics: Mapping[str, RewardFunction] | None = None,
        limits: Limits | None = None,
    ) -> None:
        _require_functions(functions)
        self.weights = _checked_weights(weights, len(functions))
        self.names = distinct_names(functions)
        self.metric_names = list(metrics or {})
        self._functions = dict(zip(self.names, functions, strict=True))
        self._functions |= {_METRIC + name: function for name, function in (metrics or {}).items()}
        self.examples: dict[str, Failure] = {}
        self.silent = set(self.names)
        limits = limits or Limits()
        away = {name: function for name, function in self._functions.items() if not is_inline(function)}
        self._away = away if limits.workers else {}
        self._loop = Loop()
        self._pool: RewardPool | None = None
        if self._away:
            self._pool = RewardPool(
                self._away, workers=limits.workers, limit_s=limits.timeout_s, memory_mb=limits.memory_mb
            )

    @property
    def set_level(self) -> bool:
        """Whether a function sees all completions of a member at once."""
        return any(is_set_level(function) for function in self._functions.values())

    def require_columns(self, columns: Collection[str], where: str, *, metrics: bool = False) -> None:
        """Check that the functions, with `metrics` these too, get what they can't be called without.

        Args:
            columns: those that functions get, so without `prompt`.
            where: the data that has them.
            metrics: whether metrics are called for this data.

        Raises:
            ConfigError: a parameter that no column gives; names the function, the parameter and the columns.
        """
        for name in self._called(metrics):
            for parameter in lacking(self._functions[name], columns):
                kind = "metric" if name.startswith(_METRIC) else "reward"
                raise ConfigError(
                    f"{kind} function `{_plain(name)}` needs `{parameter}`, which {where} doesn't give"
                    f"{nearest(parameter, {*columns, *GIVEN})}; expected one of its columns {sorted(columns)}, or of "
                    f"{', '.join(GIVEN)}"
                )

    def uses(self, column: str) -> bool:
        """True if a reward function may read this column. `prompt` reaches every function, as `prompts`."""
        return column == "prompt" or any(takes(self._functions[name], column) for name in self.names)

    def open(self) -> None:
        """Start the workers, if any function needs them.

        Raises:
            RewardError: a function can't be loaded there; names it.
        """
        if self._pool is not None:
            self._pool.open()

    def close(self) -> None:
        """End the workers, and the loop in which functions are awaited here."""
        self._loop.close()
        if self._pool is not None:
            self._pool.close()

    def submit(self, batch: Batch, *, metrics: bool = False) -> Pending:
        """Begin to score a batch, with `metrics` by these too; what workers do goes on meanwhile."""
        names = self._called(metrics)
        away: dict[str, Future[Scores]] = {}
        for name in names:
            if name in self._away:
                assert self._pool is not None
                away[name] = self._pool.submit(name, batch, together=is_set_level(self._functions[name]))
        here = {name: self._call(name, batch) for name in names if name not in away}
        return Pending(self, names, away, here)

    def _call(self, name: str, batch: Batch) -> Scores:
        function = self._functions[name]
        with same_directory():
            return call(_plain(name), function, batch, one=is_set_level(function), loop=self._loop)

    def score(self, batch: Batch) -> list[float | None]:
        """One reward per completion of the batch; None where no function gave one."""
        return self.submit(batch).result().totals

    def _called(self, metrics: bool) -> list[str]:
        return [*self.names, *(_METRIC + name for name in self.metric_names if metrics)]

    def _graded(self, scores: dict[str, Scores]) -> Graded:
        size = len(next(iter(scores.values())).values)
        totals: list[float | None] = [None] * size
        for name, weight in zip(self.names, self.weights, strict=True):
            for place, value in enumerate(scores[name].values):
                if value is not None:
                    totals[place] = (totals[place] or 0.0) + weight * value
        self.silent -= {name for name in self.silent if any(value is not None for value in scores[name].values)}
        for name in self.names:
            for failure in scores[name].failures:
                totals[failure.place] = None
        for name, told in scores.items():
            if told.failures:
                self._tell(name, told)
        return Graded(totals=totals, scores=scores)

    def _tell(self, name: str, scores: Scores) -> None:
        failures, size = scores.failures, len(scores.values)
        kinds = ", ".join(sorted({failure.kind for failure in failures}))
        told = f"reward function `{_plain(name)}` failed on {len(failures)} of {size} completions ({kinds})"
        if name not in self.examples:
            self.examples[name] = failures[0]
            logger.error("%s; the first one: %s", told, failures[0].why)  # told by every rank that meets one
        else:
            logger.debug("%s; the first one: %s", told, failures[0].why)


class Pending:
    """A batch that is being scored. `waited_s` is how long `result` waited for workers."""

    def __init__(
        self, owner: RewardSet, names: Sequence[str], away: Mapping[str, Future[Scores]], here: Mapping[str, Scores]
    ) -> None:
        self._owner, self._names, self._away, self._here = owner, names, away, here
        self.waited_s = 0.0

    def result(self) -> Graded:
        """The scores, once they are there."""
        start = time.perf_counter()
        away = {name: future.result() for name, future in self._away.items()}
        self.waited_s += time.perf_counter() - start
        return self._owner._graded({name: self._here.get(name) or away[name] for name in self._names})


_METRIC = "metric/"


def metric_scores(graded: Graded, name: str) -> Scores:
    """The scores of a metric."""
    return graded.scores[_METRIC + name]


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


def _plain(name: str) -> str:
    return name.removeprefix(_METRIC)


def _require_functions(functions: Sequence[RewardFunction]) -> None:
    if not functions:
        raise ConfigError("`reward_funcs` must hold at least one function, got none")
    for function in functions:
        if isinstance(function, str):
            raise ConfigError(
                f"`reward_funcs` must hold functions, got {function!r}: call a reward model in a function of yours"
            )
        if not callable(function):
            raise ConfigError(f"`reward_funcs` must hold functions, got {function!r}")
        if hasattr(function, "state_dict"):
            kind = type(function).__name__
            raise ConfigError(f"`reward_funcs` must hold functions, got a {kind}: call it in a function of yours")


def _checked_weights(weights: Sequence[float] | None, functions: int) -> list[float]:
    checked = [1.0] * functions if weights is None else list(weights)
    if len(checked) != functions:
        raise ConfigError(
            f"`reward_weights` must hold one number per reward function ({functions}), got {len(checked)}"
        )
    if not all(math.isfinite(weight) for weight in checked):
        raise ConfigError(f"`reward_weights` must be finite, got {checked}")
    return checked
