"""Digests of the training rows, by which a resume and other ranks recognize the data."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Sequence

from es_llm.data.canonical import canonical
from es_llm.data.contents import NoContentError
from es_llm.errors import ConfigError
from es_llm.types import Row


def fingerprint(rows: Sequence[Row], used: Callable[[str], bool] = lambda column: True) -> dict[str, object]:
    """Number of rows and SHA-256 over them, by which a resume and other ranks recognize the data.

    Returns:
        `rows`, their number; `sha256`, over the columns that something may read; `all_sha256`, over all columns but
        those that nothing reads and that hold a value without content; `left_out` names these, if there are any.
    """
    unused = frozenset(column for column in dict.fromkeys(itertools.chain.from_iterable(rows)) if not used(column))
    left_out: set[str] = set()
    while True:
        digests, fault = _digests(rows, unused, left_out)
        if fault is None:
            found: dict[str, object] = {"rows": len(rows), "sha256": digests[0], "all_sha256": digests[1]}
            return {**found, "left_out": sorted(left_out)} if left_out else found
        left_out |= _without_content(*fault[:2], used, fault[2])


def _digests(
    rows: Sequence[Row], unused: frozenset[str], left_out: set[str]
) -> tuple[tuple[str, str], tuple[Row, int, NoContentError] | None]:
    """SHA-256 without `unused` and `left_out`, and without `left_out` alone; and the first row without content, if any,
    with its index and the error."""
    hashers = hashlib.sha256(), hashlib.sha256()
    for index, row in enumerate(rows):
        kept = {column: value for column, value in row.items() if column not in left_out}
        read = {column: value for column, value in kept.items() if column not in unused}
        try:
            whole = canonical(kept)
            hashers[0].update((whole if len(read) == len(kept) else canonical(read)) + b"\n")
        except NoContentError as error:
            return ("", ""), (kept, index, error)
        hashers[1].update(whole + b"\n")
    return (hashers[0].hexdigest(), hashers[1].hexdigest()), None


def _without_content(row: Row, index: int, used: Callable[[str], bool], error: NoContentError) -> set[str]:
    """The columns of a row that hold a value without content. Raises an error if anything reads one of them."""
    columns = {}
    for column, value in row.items():
        try:
            canonical(value)
        except NoContentError as inner:
            columns[column] = inner
    if not columns:
        raise ConfigError(f"`train_dataset` row {index} can't be compared on resume: {error}") from error
    for column, fault in columns.items():
        if used(column):
            raise ConfigError(
                f"`train_dataset` row {index}, column {column!r}: got a value of the type {fault}, which neither a "
                "resume nor another rank could compare; remove the column, or make it text, numbers, bytes, an array "
                "or an image"
            ) from fault
    return set(columns)
