"""Completions as parquet: each rank writes those that it graded, one file per evaluation or logged iteration.

Columns: step, set (of an evaluation, "" for the one without a name) or member (of an iteration), sample (-1: greedy),
prompt (text, or messages as JSON), completion, tokens, finished, reward, one column per function, and what functions
gave to `log_extra`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from es_llm.errors import ConfigError
from es_llm.rewards.scoring import Graded
from es_llm.rollout.engine import Completion
from es_llm.types import Row

logger = logging.getLogger(__name__)


class CompletionLog:
    """Collects rows, and writes them to `<directory>/completions/`."""

    def __init__(self, rank: int) -> None:
        """Collect for a rank.

        Raises:
            ConfigError: pyarrow is missing.
        """
        _library()
        self._rank = rank
        self._rows: list[dict[str, Any]] = []

    def keep(
        self,
        rows: Sequence[Row],
        completions: Sequence[Completion],
        graded: Graded,
        *,
        samples: int = 0,
        **about: Any,
    ) -> None:
        """A graded batch: one completion per row, or with `samples` so many for each."""
        for place, completion in enumerate(completions):
            row = rows[place // samples if samples else place]
            prompt = row["prompt"]
            self._rows.append({
                **about,
                "sample": place % samples if samples else -1,
                "prompt": prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False),
                "completion": completion.text,
                "tokens": len(completion.token_ids),
                "finished": completion.finished,
                "reward": graded.totals[place],
                **{name: scores.values[place] for name, scores in graded.scores.items()},
                **{name: str(v[place]) for scores in graded.scores.values() for name, v in scores.extra.items()},
            })  # fmt: skip

    def write(self, directory: Path, name: str) -> None:
        """Write what was collected as `completions/<name>-rank<rank>.parquet`. An error of the disk is logged."""
        if not self._rows:
            return
        pyarrow, parquet = _library()
        rows, self._rows = self._rows, []
        columns = {key: [row.get(key) for row in rows] for key in dict.fromkeys(key for row in rows for key in row)}
        path = directory / "completions" / f"{name}-rank{self._rank}.parquet"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(pyarrow.table(columns), path)
        except OSError as error:
            logger.warning("%s can't be written: %s", path, error)


def _library() -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            f"`log_completions` needs pyarrow ({error}); `pip install 'es_llm[data]'` brings it"
        ) from error
    return pyarrow, parquet
