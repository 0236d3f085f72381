"""Completions as parquet: each rank writes the completions that it graded, one file per evaluation or logged iteration.

Columns: step, set (of an evaluation, "" for the one without a name) or member (of an iteration), sample (-1: greedy),
prompt (text, or messages as JSON), completion, tokens, finished, reward, one column per function, and what functions
gave to `log_extra`, as text. A function that has the name of a column before it gets the column `rewards/<function>`;
an extra column whose name is taken, or that several functions give, is `<function>/<name>`.

A table that can't be written is a warning, and the run continues.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from es_llm.plugins import import_optional
from es_llm.rewards.call import printable
from es_llm.rewards.reward_set import BatchRewards
from es_llm.rollout.engine import Completion
from es_llm.types import Row

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Row:
    """`own` columns; each function's score; each (function, column) that was given to `log_extra`."""

    own: dict[str, Any]
    scores: dict[str, float | None]
    extra: dict[tuple[str, str], Any]


class CompletionLog:
    """Collects rows, and writes them to `<directory>/completions/`."""

    def __init__(self, rank: int) -> None:
        _library()
        self._rank = rank
        self._rows: list[_Row] = []

    def keep(
        self,
        rows: Sequence[Row],
        completions: Sequence[Completion],
        rewards: BatchRewards,
        *,
        samples: int = 0,
        **about: Any,
    ) -> None:
        """Add a graded batch: one completion per row, or `samples` completions per row if that isn't 0. `about` are
        further columns."""
        for index, completion in enumerate(completions):
            row = rows[index // samples if samples else index]
            prompt = row["prompt"]
            own = {
                **about,
                "sample": index % samples if samples else -1,
                "prompt": printable(prompt if isinstance(prompt, str) else json.dumps(prompt, ensure_ascii=False)),
                "completion": printable(completion.text),
                "tokens": len(completion.token_ids),
                "finished": completion.finished,
                "reward": rewards.rewards[index],
            }
            values = {name: result.rewards[index] for name, result in rewards.results.items()}
            extra = {
                (name, column): given[index]
                for name, result in rewards.results.items()
                for column, given in result.extra.items()
            }
            self._rows.append(_Row(own, values, extra))

    def write(self, directory: Path, name: str) -> None:
        """Write the rows to `completions/<name>-rank<rank>.parquet`, and clear them. An error of the disk is logged."""
        if not self._rows:
            return
        pyarrow, parquet = _library()
        rows, self._rows = self._rows, []
        path = directory / "completions" / f"{name}-rank{self._rank}.parquet"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(pyarrow.table(_columns(rows)), path)
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            logger.warning("%s can't be written: %s", path, error)


def _columns(rows: Sequence[_Row]) -> dict[str, list[Any]]:
    """The table by columns; no column replaces another one of the same name."""
    own = dict.fromkeys(key for row in rows for key in row.own)
    columns = {key: [row.own.get(key) for row in rows] for key in own}
    for name in dict.fromkeys(name for row in rows for name in row.scores):
        columns[_free(columns, name, f"rewards/{name}")] = [row.scores.get(name) for row in rows]
    extra = list(dict.fromkeys(key for row in rows for key in row.extra))
    givers = Counter(column for _, column in extra)
    for function, column in extra:
        name = column if givers[column] == 1 else f"{function}/{column}"
        values = [row.extra.get((function, column)) for row in rows]
        columns[_free(columns, name, f"{function}/{column}")] = [
            None if value is None else printable(value) for value in values
        ]
    return columns


def _free(taken: Collection[str], name: str, other: str) -> str:
    """`name` if it isn't taken, else `other` with underscores until it isn't taken."""
    if name not in taken:
        return name
    while other in taken:
        other += "_"
    return other


def _library() -> Any:
    need, remedy = "`log_completions` needs pyarrow", "`pip install 'es_llm[data]'` installs it"
    return tuple(import_optional(module, need, remedy) for module in ("pyarrow", "pyarrow.parquet"))
