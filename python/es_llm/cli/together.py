"""What all ranks prepare alike before their first call."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from es_llm.team import Team, report_failure

Result = TypeVar("Result")


def together(team: Team, work: Callable[[], Result]) -> Result:
    """`work()`; if it fails on this rank, all ranks raise its error in their first call, and this one at once.

    Raises:
        EsError, or anything else that `work` raises.
    """
    try:
        return work()
    except Exception as error:
        report_failure(team, error)
        raise
