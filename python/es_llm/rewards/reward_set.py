"""Several reward functions over one batch of completions: one weighted reward per completion, failures counted.

Knows nothing about models or populations. A failed reward is None here, then a failed cell in the fitness table, and
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
from es_llm.plugins import same_directory
from es_llm.rewards import is_inline, is_set_level
from es_llm.rewards.batch import Batch, Failure, RewardResult
from es_llm.rewards.call import GIVEN, call, missing_arguments, takes
from es_llm.rewards.loop import Loop
from es_llm.rewards.workers.pool import RewardPool
from es_llm.rewards.workers.protocol import WorkerLimits
from es_llm.types import RewardFunction

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class BatchRewards:
    """`rewards`: one per completion, None if no function gave one. `results`: of each function, by its name."""

    rewards: list[float | None]
    results: dict[str, RewardResult]

    def metric(self, name: str) -> RewardResult:
        """The result of a metric."""
        return self.results[_METRIC + name]


_METRIC = "metric/"


class RewardSet:
    """Reward functions with weights, in TRL's contract; and metrics, functions of the same contract without a weight.

    The reward of a completion is the sum of weight * number over the functions that returned a number. It is None if no
    function did, or if one failed on the completion: a reward with a part missing can't be compared with a whole one.
    `examples` keeps the first failure of each function. `silent` holds the functions that have returned no number yet.

    Args:
        functions: the reward functions.
        weights: one per function; None: 1 each.
        metrics: name -> function.
        limits: of the workers; None: functions are called in this process.
    """

    def __init__(
        self,
        functions: Sequence[RewardFunction],
        weights: Sequence[float] | None = None,
        *,
        metrics: Mapping[str, RewardFunction] | None = None,
        limits: WorkerLimits | None = None,
    ) -> None:
        _require_functions(functions)
        self.weights = _checked_weights(weights, len(functions))
        self.names = _distinct_names(functions)
        self.metric_names = list(metrics or {})
        self._functions = dict(zip(self.names, functions, strict=True))
        self._functions |= {_METRIC + name: function for name, function in (metrics or {}).items()}
        self.examples: dict[str, Failure] = {}
        self.silent = set(self.names)
        self._loop = Loop()
        remote = {name: function for name, function in self._functions.items() if not is_inline(function)}
        self._remote = remote if limits is not None and limits.workers else {}
        self._pool = RewardPool(self._remote, limits) if self._remote and limits is not None else None

    @property
    def set_level(self) -> bool:
        """True if a function sees all completions of a member at once."""
        return any(is_set_level(function) for function in self._functions.values())

    def require_columns(self, columns: Collection[str], where: str, *, metrics: bool = False) -> None:
        """Check that the data has a column for every argument that the functions need."""
        for name in self._called(metrics):
            for argument in missing_arguments(self._functions[name], columns):
                kind = "metric" if name.startswith(_METRIC) else "reward"
                raise ConfigError(
                    f"{kind} function `{_plain(name)}` needs `{argument}`, which {where} doesn't give"
                    f"{nearest(argument, {*columns, *GIVEN})}; expected one of its columns {sorted(columns)}, or of "
                    f"{', '.join(GIVEN)}"
                )

    def uses(self, column: str) -> bool:
        """True if a reward function may read this column. Every function receives `prompt`, as `prompts`."""
        return column == "prompt" or any(takes(self._functions[name], column) for name in self.names)

    def open(self) -> None:
        """Start the workers, if a function needs them."""
        if self._pool is not None:
            self._pool.open()

    def close(self) -> None:
        """End the workers, and the event loop of this process."""
        self._loop.close()
        if self._pool is not None:
            self._pool.close()

    def submit(self, batch: Batch, *, metrics: bool = False) -> PendingRewards:
        """Send a batch to the workers, and call the functions of this process. `metrics`: call the metrics too."""
        names = self._called(metrics)
        remote: dict[str, Future[RewardResult]] = {}
        for name in names:
            if name in self._remote:
                assert self._pool is not None
                remote[name] = self._pool.submit(name, batch, together=is_set_level(self._functions[name]))
        local = {name: self._call(name, batch) for name in names if name not in remote}
        return PendingRewards(self, names, remote, local)

    def rewards(self, batch: Batch) -> list[float | None]:
        """One reward per completion of the batch; None if no function gave one. Waits for the workers."""
        return self.submit(batch).result().rewards

    def _call(self, name: str, batch: Batch) -> RewardResult:
        function = self._functions[name]
        with same_directory():
            return call(_plain(name), function, batch, one=is_set_level(function), loop=self._loop)

    def _called(self, metrics: bool) -> list[str]:
        return [*self.names, *(_METRIC + name for name in self.metric_names if metrics)]

    def _combined(self, results: dict[str, RewardResult]) -> BatchRewards:
        size = len(next(iter(results.values())).rewards)
        rewards: list[float | None] = [None] * size
        for name, weight in zip(self.names, self.weights, strict=True):
            for index, reward in enumerate(results[name].rewards):
                if reward is not None:
                    rewards[index] = (rewards[index] or 0.0) + weight * reward
        self.silent -= {name for name in self.silent if any(reward is not None for reward in results[name].rewards)}
        for name in self.names:
            for failure in results[name].failures:
                rewards[failure.index] = None
        for name, result in results.items():
            if result.failures:
                self._report(name, result)
        return BatchRewards(rewards=rewards, results=results)

    def _report(self, name: str, result: RewardResult) -> None:
        """Log the failures of a function, the first time as an error. Every rank that meets one reports it."""
        failures, size = result.failures, len(result.rewards)
        kinds = ", ".join(sorted({failure.kind for failure in failures}))
        message = f"reward function `{_plain(name)}` failed on {len(failures)} of {size} completions ({kinds})"
        level = logging.DEBUG if name in self.examples else logging.ERROR
        self.examples.setdefault(name, failures[0])
        logger.log(level, "%s; the first failure: %s", message, failures[0].reason)


class PendingRewards:
    """A batch whose rewards are being computed. `waited_s` is how long `result` waited for workers."""

    def __init__(
        self,
        owner: RewardSet,
        names: Sequence[str],
        remote: Mapping[str, Future[RewardResult]],
        local: Mapping[str, RewardResult],
    ) -> None:
        self._owner, self._names, self._remote, self._local = owner, names, remote, local
        self.waited_s = 0.0

    def result(self) -> BatchRewards:
        """The rewards. Waits until the workers have answered."""
        start = time.perf_counter()
        remote = {name: future.result() for name, future in self._remote.items()}
        self.waited_s += time.perf_counter() - start
        return self._owner._combined({name: self._local.get(name) or remote[name] for name in self._names})


def _distinct_names(functions: Sequence[RewardFunction]) -> list[str]:
    """`__name__` of each function. Equal names get a number: f, f_2, f_3."""
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
