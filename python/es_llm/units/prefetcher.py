"""Overlap of two units of work: while workers grade one unit, the next one is generated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Begun = TypeVar("Begun")


class Prefetcher(Generic[Begun]):
    """Begins the unit after the one that is asked for.

    Args:
        begin: the first half of a unit: generate, and submit the completions to be graded.
        upcoming: the unit after the current one, or None if it isn't known yet.
    """

    def __init__(self, begin: Callable[[int], Begun], upcoming: Callable[[], int | None]) -> None:
        self._begin, self._upcoming = begin, upcoming
        self._begun: dict[int, Begun] = {}

    def take(self, unit: int) -> Begun:
        """The unit, begun; then the next one is begun too, if it is known."""
        mine = self._begun.pop(unit) if unit in self._begun else self._begin(unit)
        self._begun.clear()  # a unit that was begun in vain: another rank was faster
        following = self._upcoming()
        if following is not None and following != unit:
            self._begun[following] = self._begin(following)
        return mine
