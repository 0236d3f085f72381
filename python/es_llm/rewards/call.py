"""Loads one reward function by its name, and calls it in this process.

Every error becomes failed completions, whatever its class. The one exception is a KeyboardInterrupt in the trainer's
own process, which is the user's. If a function forks and the child returns from it, the child ends here, so that no
work is done twice.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import os
import traceback
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from es_llm import plugins
from es_llm.errors import RewardError
from es_llm.rewards.batch import INVALID, RAISED, TIMEOUT, Batch, Failure, RewardResult
from es_llm.rewards.loop import Loop, end_fork, left_over
from es_llm.types import RewardFunction

GIVEN: Final = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
"""Arguments that a function may take beside the columns of the data."""
CANCEL_S: Final = 1.0
"""Seconds that a call may take to end after it was cancelled."""
_MAX_REASON: Final = 2000
"""Characters of a failure's reason that are kept."""
_MAX_NAME: Final = 200
"""Characters of the name of a logged metric or column that are kept."""


def load_reward(name: str) -> RewardFunction:
    """Import one reward function, as `--reward_funcs` names it: see `es_llm.plugins`."""
    function: RewardFunction = plugins.resolve("reward", name, error=RewardError)
    if not callable(function):
        raise RewardError(f"reward {name!r} must be callable, got {function!r}")
    return function


def is_async(function: Any) -> bool:
    """True if a call of the function returns something to await."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def missing_arguments(function: RewardFunction, columns: Collection[str]) -> list[str]:
    """The parameters without a default for which data with these columns has no argument: each call would fail."""
    # Of the outermost function: a decorator may pass more to its function than it receives.
    parameters = _parameters(function, follow_wrapped=False) or []
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p for p in parameters if p.kind not in free and p.default is inspect.Parameter.empty]
    by_name = {*columns, *GIVEN}
    return [p.name for p in needed if p.kind is inspect.Parameter.POSITIONAL_ONLY or p.name not in by_name]


def takes(function: RewardFunction, column: str) -> bool:
    """True if the function may read this column of the data."""
    parameters = _parameters(function)
    if parameters is None:
        return True
    return any(p.kind is inspect.Parameter.VAR_KEYWORD or p.name == column for p in parameters)


def _parameters(function: RewardFunction, *, follow_wrapped: bool = True) -> list[inspect.Parameter] | None:
    """The parameters of a function; None if it has no signature, as some functions in C."""
    try:
        return list(inspect.signature(function, follow_wrapped=follow_wrapped).parameters.values())
    except (TypeError, ValueError):
        return None


def call(
    name: str, function: RewardFunction, batch: Batch, *, one: bool = False, loop: Loop | None = None
) -> RewardResult:
    """The result of one call of the function with the whole batch. `one`: it returns one float for all completions."""
    log, pid = _Log(len(batch)), os.getpid()
    try:
        returned = function(**_arguments(function, batch, log))
        if inspect.isawaitable(returned):
            returned = _awaited(returned, loop)
        return log.result(_spread(name, returned, len(batch)) if one else _listed(name, returned, len(batch)))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return RewardResult.failed(len(batch), RAISED, _traceback(error))
    finally:
        end_fork(pid)


def call_each(
    name: str, function: RewardFunction, batch: Batch, before: Callable[[int], None], loop: Loop | None = None
) -> RewardResult:
    """The result of one call per completion. `before` is called with the index of each completion before its call."""
    results = []
    for index in range(len(batch)):
        before(index)
        try:
            results.append(call(name, function, batch.part(slice(index, index + 1)), loop=loop))
        except BaseException as error:  # a KeyboardInterrupt: this is a worker, so it isn't the user's
            results.append(RewardResult.failed(1, RAISED, _traceback(error)))
    return RewardResult.joined(results)


def call_concurrently(
    name: str,
    function: RewardFunction,
    batch: Batch,
    limit_s: float,
    loop: Loop | None = None,
    ended: Callable[[], None] = lambda: None,
) -> RewardResult:
    """The result of one call per completion, with all calls awaited together.

    If no call ends for `limit_s` seconds (0: no limit), the remaining ones are cancelled. If a cancelled call doesn't
    end, the loop becomes `stuck`. `ended` is called in the loop's thread when a call ends.
    """
    pid = os.getpid()

    async def call_one(part: Batch) -> RewardResult:
        """Catches everything: some classes of errors would end the event loop, and the whole batch with it."""
        log = _Log(1)
        try:
            awaitable: Any = function(**_arguments(function, part, log))
            return log.result(_listed(name, await awaitable, 1))
        except BaseException as error:
            return RewardResult.failed(1, RAISED, _traceback(error))
        finally:
            end_fork(pid)

    async def call_all() -> list[RewardResult]:
        calls = [asyncio.ensure_future(call_one(batch.part(slice(index, index + 1)))) for index in range(len(batch))]
        late = await left_over(calls, limit_s, ended)
        for each in late:
            each.cancel()
        if late and (await asyncio.wait(late, timeout=CANCEL_S))[1] and loop is not None:
            loop.stuck = True
        failed = RewardResult.failed(1, TIMEOUT, f"took longer than {limit_s:g} s")
        return [failed if each in late else each.result() for each in calls]

    return RewardResult.joined(_awaited(call_all(), loop))


def printable(value: Any) -> str:
    """The value as text that every file can hold: surrogates, which have no UTF-8, are escaped."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def _awaited(awaitable: Awaitable[Any], loop: Loop | None) -> Any:
    if loop is not None:
        return loop.run(awaitable)
    own = Loop()
    try:
        return own.run(awaitable)
    finally:
        own.close()


class _Log:
    def __init__(self, size: int) -> None:
        self._size = size
        self._extra: dict[str, list[Any]] = {}
        self._metrics: list[tuple[str, float]] = []

    def extra(self, column: str, values: Sequence[Any]) -> None:
        listed = list(values)
        if len(listed) != self._size:
            raise RewardError(f"`log_extra`: column {column!r} must have {self._size} values, got {len(listed)}")
        self._extra[printable(column)[:_MAX_NAME]] = [_plain(value) for value in listed]

    def metric(self, name: str, value: float) -> None:
        """Add a value to a metric, whose mean is logged. A value that is no finite number becomes NaN."""
        number = _number(value)
        self._metrics.append((printable(name)[:_MAX_NAME], math.nan if number is None else number))

    def result(self, returned: tuple[list[float | None], list[Failure]]) -> RewardResult:
        return RewardResult(*returned, extra=self._extra, metrics=self._metrics)


def _arguments(function: RewardFunction, batch: Batch, log: _Log) -> Mapping[str, Any]:
    given = {
        "prompts": batch.prompts,
        "completions": batch.completions,
        "completion_ids": batch.completion_ids,
        **batch.columns,
        "trainer_state": batch.state,
        "log_extra": log.extra,
        "log_metric": log.metric,
    }
    parameters = _parameters(function)
    if parameters is None or any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return given
    names = {parameter.name for parameter in parameters}
    return {name: value for name, value in given.items() if name in names}


def _listed(name: str, returned: Any, expected: int) -> tuple[list[float | None], list[Failure]]:
    if isinstance(returned, str | bytes | Mapping) or not isinstance(returned, Iterable):
        hint = "; does it end without `return`?" if returned is None else ""
        raise RewardError(f"`{name}` must return a list of rewards, got {_brief(returned)}{hint}")
    values = returned if isinstance(returned, list | tuple) else list(returned)
    if len(values) != expected:
        raise RewardError(f"`{name}` must return {expected} rewards, one per completion, got {len(values)}")
    rewards = [_number(value) for value in values]
    failures = [
        Failure(index, INVALID, f"`{name}` returned {_brief(value)}, expected a finite number or None")
        for index, (reward, value) in enumerate(zip(rewards, values, strict=True))
        if reward is None and value is not None
    ]
    return rewards, failures


def _spread(name: str, returned: Any, size: int) -> tuple[list[float | None], list[Failure]]:
    """One float for all completions. A list of one float is accepted too."""
    if isinstance(returned, list | tuple) and len(returned) == 1:
        returned = returned[0]
    number = _number(returned)
    if number is None and returned is not None:
        raise RewardError(f"`{name}` must return one float for a member's completions, got {_brief(returned)}")
    return [number] * size, []


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, str | bytes):
        return None
    try:
        number = float(value)
    except Exception:  # a user's object may raise anything
        return None
    return number if math.isfinite(number) else None


def _plain(value: Any) -> Any:
    """The value itself, or text for a type that other processes may not be able to read."""
    return value if value is None or isinstance(value, int | float | bool) else printable(value)


def _brief(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:
        text = f"a {type(value).__name__} whose repr raises {type(error).__name__}"
    return text[:200]


def _traceback(error: BaseException) -> str:
    try:
        return printable("".join(traceback.format_exception(error)).rstrip()[-_MAX_REASON:])
    except Exception:
        return type(error).__name__
