"""Rows that users hand to the trainer, checked: every fault is named before any work is lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from es_llm.data.messages import checked_prompt
from es_llm.errors import ConfigError
from es_llm.trainer.assembly.arguments import short
from es_llm.types import Row

RESERVED_COLUMNS = ("prompts", "completions")
"""Parameters of reward functions that the trainer itself fills; TRL would pass two values for such a name."""
IGNORED_COLUMNS = ("completion", "completion_ids", "trainer_state", "log_extra", "log_metric")
"""Columns that reward functions don't get, as in TRL: the trainer passes its own values under these names, if any."""


def rows_of(dataset: Iterable[Row] | None, name: str) -> list[Row]:
    """The rows of a data set as dicts that all have the same columns, `prompt` among them (see `checked_prompt`)."""
    if dataset is None:
        return []
    if isinstance(dataset, str | bytes | Mapping) or hasattr(dataset, "iloc") or not isinstance(dataset, Iterable):
        raise ConfigError(f"`{name}` must be a sequence of rows, got a {type(dataset).__name__}{_rows_hint(dataset)}")
    rows: list[Row] = []
    for index, row in enumerate(dataset):
        where = f"`{name}` row {index}"
        if not isinstance(row, Mapping):
            raise ConfigError(f"{where} must be a mapping of columns, got {_no_row(dataset, row)}")
        if "prompt" not in row:
            raise ConfigError(f"{where} must have a `prompt`, got the columns {sorted(map(str, row))}{_instead(row)}")
        if taken := [column for column in RESERVED_COLUMNS if column in row]:
            raise ConfigError(f"{where}: the columns {taken} are given to rewards by the trainer; rename them")
        kept = {column: value for column, value in row.items() if column not in IGNORED_COLUMNS}
        if rows and set(kept) != set(rows[0]):
            raise ConfigError(
                f"{where} must have the columns {sorted(map(str, rows[0]))}, got {sorted(map(str, kept))}"
            )
        rows.append({**kept, "prompt": checked_prompt(row["prompt"], where)})
    return rows


def _rows_hint(dataset: Any) -> str:
    if hasattr(dataset, "iloc"):  # pandas, whose frames are sequences of names of columns
        return '; give `.to_dict("records")` of it'
    if hasattr(dataset, "to_pylist") or hasattr(dataset, "to_dicts"):
        return f"; give `.{'to_dicts' if hasattr(dataset, 'to_dicts') else 'to_pylist'}()` of it"
    if isinstance(dataset, str):
        return "; load it first, such as by `datasets.load_dataset`"
    if not isinstance(dataset, Mapping) or not dataset:
        return ""
    names = [str(name) for name in dataset]
    if all(hasattr(split, "column_names") for split in dataset.values()):
        split = "train" if "train" in names else names[0]
        return f" of the splits {', '.join(names)}; take one: [{split!r}]"
    return "; a mapping of columns becomes rows by `datasets.Dataset.from_dict`"


_CONVERSATIONS = ("messages", "conversations", "conversation")
_PROMPT_LIKE = (*_CONVERSATIONS, "question", "problem", "instruction", "query", "text", "input")


def _no_row(dataset: Any, row: Any) -> str:
    """What was there instead of a row. A `datasets.Dataset` with a format gives tables of one row each."""
    kind = f"{type(row).__module__}.{type(row).__qualname__}"
    if hasattr(dataset, "with_format") and hasattr(row, "columns"):
        return f"a {kind}: the data set has a format; take it off by dataset.with_format(None)"
    return short(row)


def _instead(row: Row) -> str:
    if {"instruction", "input"} <= set(row):
        return (
            "; rows as Alpaca's have the question in two columns: join `instruction` and `input` (which may be empty) "
            "into one `prompt` by dataset.map"
        )
    name = next((name for name in _PROMPT_LIKE if name in row), None)
    if name is None:
        return ""
    answered = "; leave the assistant's answer at its end out" if name in _CONVERSATIONS else ""
    return f"; rename one by `dataset_columns` {name}=prompt, or dataset.rename_column({name!r}, 'prompt'){answered}"


def columns_of(row: Row) -> list[str]:
    """The columns that reward functions get; they get `prompt` as `prompts`."""
    return [name for name in row if name != "prompt"]


def eval_sets(dataset: Any) -> dict[str, list[Row]]:
    """Held-out rows by the name of their set; the name of a single set is "". Sets without rows are left out."""
    if not isinstance(dataset, Mapping):
        rows = rows_of(dataset, "eval_dataset")
        return {"": rows} if rows else {}
    sets: dict[str, list[Row]] = {}
    for name, rows in dataset.items():
        if not isinstance(name, str) or not name:
            raise ConfigError(f"`eval_dataset`: the name of a set must be text, got {name!r}")
        if isinstance(rows, str | bytes):
            raise ConfigError(f"`eval_dataset` must be a sequence of rows, or several by name, got {dataset!r}")
        sets[name] = rows_of(rows, f"eval_dataset[{name!r}]")
    return {name: rows for name, rows in sets.items() if rows}
