"""Work on one unit in two halves, the second of which waits: the first half of the next unit is done meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Begun = TypeVar("Begun")


class Ahead(Generic[Begun]):
    """Begins units one ahead of those that are asked for.

    Args:
        begin: the first half of a unit: perturb, generate, send the completions to be graded.
        upcoming: the unit after this one, if it is known already.
    """

    def __init__(self, begin: Callable[[int], Begun], upcoming: Callable[[], int | None]) -> None:
        self._begin, self._upcoming = begin, upcoming
        self._begun: dict[int, Begun] = {}

    def take(self, unit: int) -> Begun:
        """The unit, begun; and so is the next one, if there is one."""
        mine = self._begun.pop(unit) if unit in self._begun else self._begin(unit)
        self._begun.clear()  # what was begun for nothing: another rank was faster
        following = self._upcoming()
        if following is not None and following != unit:
            self._begun[following] = self._begin(following)
        return mine
