"""What commands do before their work."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from es_llm.team import Team, report_failure

Result = TypeVar("Result")


def quiet_libraries() -> None:
    """Show only errors of transformers, no progress bars, and no warnings of tokenizers about forks.

    Call it before anything imports transformers, which reads TQDM_DISABLE when it is imported.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def together(team: Team, work: Callable[[], Result]) -> Result:
    """The result of `work()`, which all ranks do before their first call. If it fails on this rank, this rank raises at
    once, and the other ranks raise the same error in their first call."""
    try:
        return work()
    except Exception as error:
        report_failure(team, error)
        raise
