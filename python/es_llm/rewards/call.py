"""Calls one reward function, in whatever process this is.

Every error becomes failed completions, whatever its class, but for one: in the trainer's own process a
KeyboardInterrupt is the user's. A child that a function forked and that comes back from it ends here, so that nothing
is done twice.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import os
import traceback
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from es_llm.errors import RewardError
from es_llm.rewards.batch import INVALID, RAISED, TIMEOUT, Batch, Failure, Scores
from es_llm.rewards.loop import Loop, left_over
from es_llm.types import RewardFunction

GIVEN: Final = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
"""What a function gets beside the columns, if it asks for it."""
CANCEL_S: Final = 1.0
"""A call that is cancelled, since it took too long, has so long to end."""
_LONGEST: Final = 2000
"""Characters of a failure's story that are kept."""
_LONGEST_NAME: Final = 200
"""Characters of the name of a logged figure or column."""


def is_async(function: Any) -> bool:
    """Whether calling it gives something to await."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def lacking(function: RewardFunction, columns: Collection[str]) -> list[str]:
    """The parameters without a default that nobody gives where the data has these columns: each call would fail."""
    try:  # of what is called itself: a decorator may give its function more than it gets
        parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):
        return []
    free = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p for p in parameters if p.kind not in free and p.default is inspect.Parameter.empty]
    by_name = {*columns, *GIVEN}
    return [p.name for p in needed if p.kind is inspect.Parameter.POSITIONAL_ONLY or p.name not in by_name]


def takes(function: RewardFunction, column: str) -> bool:
    """Whether a function may read a column of the data."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.kind is inspect.Parameter.VAR_KEYWORD or p.name == column for p in parameters)


def call(name: str, function: RewardFunction, batch: Batch, *, one: bool = False, loop: Loop | None = None) -> Scores:
    """Scores of a batch by one call of the function; with `one` it gives one float for all (a set-level reward).

    `loop`: where it is awaited if it is async; None: in a loop for this call alone.
    """
    log, pid = _Log(len(batch)), os.getpid()
    try:
        answer = function(**_arguments(function, batch, log))
        if inspect.isawaitable(answer):
            answer = _awaited(answer, loop)
        return log.scores(_spread(name, answer, len(batch)) if one else _listed(name, answer, len(batch)))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return Scores.failed(len(batch), RAISED, _story(error))
    finally:
        _end_forked(pid)


def call_each(
    name: str, function: RewardFunction, batch: Batch, before: Callable[[int], None], loop: Loop | None = None
) -> Scores:
    """Scores of a batch by one call for each completion; `before` is called with its place before each."""
    scores = []
    for place in range(len(batch)):
        before(place)
        try:
            scores.append(call(name, function, batch.part(place, place + 1), loop=loop))
        except BaseException as error:  # this process is there for nothing else
            scores.append(Scores.failed(1, RAISED, _story(error)))
    return Scores.joined(scores)


def call_at_once(
    name: str,
    function: RewardFunction,
    batch: Batch,
    limit_s: float,
    loop: Loop | None = None,
    ended: Callable[[], None] = lambda: None,
) -> Scores:
    """Scores of a batch by one call for each completion, all awaited together.

    Those that are left when none has ended for `limit_s` (0: any time) are cancelled; where one doesn't end by that,
    the loop is `stuck`. `ended` is called in the loop's thread at the end of each.
    """
    pid = os.getpid()

    async def graded(part: Batch) -> Scores:
        """Whatever is raised ends here: some classes would end the event loop, and with it the whole batch."""
        log = _Log(1)
        try:
            waiting: Any = function(**_arguments(function, part, log))
            return log.scores(_listed(name, await waiting, 1))
        except BaseException as error:
            return Scores.failed(1, RAISED, _story(error))
        finally:
            _end_forked(pid)

    async def all_of_them() -> list[Scores]:
        tasks = [asyncio.ensure_future(graded(batch.part(place, place + 1))) for place in range(len(batch))]
        late = await left_over(tasks, limit_s, ended)
        for task in late:
            task.cancel()
        if late and (await asyncio.wait(late, timeout=CANCEL_S))[1] and loop is not None:
            loop.stuck = True
        failed = Scores.failed(1, TIMEOUT, f"took longer than {limit_s:g} s")
        return [failed if task in late else task.result() for task in tasks]

    return Scores.joined(_awaited(all_of_them(), loop))


def _awaited(awaitable: Awaitable[Any], loop: Loop | None) -> Any:
    if loop is not None:
        return loop.run(awaitable)
    own = Loop()
    try:
        return own.run(awaitable)
    finally:
        own.close()


def _end_forked(pid: int) -> None:
    """End this process if it isn't `pid`, which called the function."""
    if os.getpid() != pid:
        os._exit(1)


def printable(value: Any) -> str:
    """A text that every file can hold: surrogates, which have no UTF-8, as escapes."""
    return str(value).encode("utf-8", "backslashreplace").decode()


class _Log:
    """What a function logs while it is called."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._extra: dict[str, list[Any]] = {}
        self._metrics: list[tuple[str, float]] = []

    def extra(self, column: str, values: Sequence[Any]) -> None:
        """A further column of the table of completions, one value for each."""
        listed = list(values)
        if len(listed) != self._size:
            raise RewardError(f"`log_extra`: column {column!r} must have {self._size} values, got {len(listed)}")
        self._extra[printable(column)[:_LONGEST_NAME]] = [_plain(value) for value in listed]

    def metric(self, name: str, value: float) -> None:
        """A figure, whose mean is logged; NaN for one that is none, which is counted."""
        number = _number(value)
        self._metrics.append((printable(name)[:_LONGEST_NAME], math.nan if number is None else number))

    def scores(self, answer: tuple[list[float | None], list[Failure]]) -> Scores:
        return Scores(*answer, extra=self._extra, metrics=self._metrics)


def _arguments(function: RewardFunction, batch: Batch, log: _Log) -> Mapping[str, Any]:
    """TRL's keyword arguments, those that the function takes."""
    given = {
        "prompts": batch.prompts,
        "completions": batch.completions,
        "completion_ids": batch.completion_ids,
        **batch.columns,
        "trainer_state": batch.state,
        "log_extra": log.extra,
        "log_metric": log.metric,
    }
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return given
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return given
    names = {parameter.name for parameter in parameters}
    return {name: value for name, value in given.items() if name in names}


def _listed(name: str, answer: Any, expected: int) -> tuple[list[float | None], list[Failure]]:
    if isinstance(answer, str | bytes | Mapping) or not isinstance(answer, Iterable):
        hint = "; does it end without `return`?" if answer is None else ""
        raise RewardError(f"`{name}` must return a list of rewards, got {_brief(answer)}{hint}")
    values = answer if isinstance(answer, list | tuple) else list(answer)
    if len(values) != expected:
        raise RewardError(f"`{name}` must return {expected} rewards, one per completion, got {len(values)}")
    checked = [_number(value) for value in values]
    failures = [
        Failure(place, INVALID, f"`{name}` gave {_brief(value)}, expected a finite number or None")
        for place, (number, value) in enumerate(zip(checked, values, strict=True))
        if number is None and value is not None
    ]
    return checked, failures


def _spread(name: str, answer: Any, size: int) -> tuple[list[float | None], list[Failure]]:
    """One float for all completions; a list of one is taken too."""
    if isinstance(answer, list | tuple) and len(answer) == 1:
        answer = answer[0]
    number = _number(answer)
    if number is None and answer is not None:
        raise RewardError(f"`{name}` must return one float for a member's completions, got {_brief(answer)}")
    return [number] * size, []


def _number(value: Any) -> float | None:
    if value is None or isinstance(value, str | bytes):
        return None
    try:
        number = float(value)
    except Exception:  # what isn't ours may raise anything
        return None
    return number if math.isfinite(number) else None


def _plain(value: Any) -> Any:
    """Something that every process can read."""
    return value if value is None or isinstance(value, int | float | bool) else printable(value)


def _brief(value: Any) -> str:
    try:
        text = repr(value)
    except Exception as error:
        text = f"a {type(value).__name__} whose repr raises {type(error).__name__}"
    return text[:200]


def _story(error: BaseException) -> str:
    try:
        return printable("".join(traceback.format_exception(error)).rstrip()[-_LONGEST:])
    except Exception:
        return type(error).__name__
