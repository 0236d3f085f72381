"""Programs that need no units."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from es_llm.team.program import Program

if TYPE_CHECKING:
    from es_llm.team.team import Team


class Lead(Program):
    """The leader alone does `work`; its error is raised on all ranks."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work

    def advance(self, team: Team) -> None:
        """Do it."""
        self._work()
        team.finish(b"{}")


class Fail(Program):
    """This rank couldn't even begin; its error is raised on all ranks."""

    def __init__(self, error: Exception) -> None:
        self.unable = error
