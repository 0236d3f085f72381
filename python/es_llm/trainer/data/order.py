"""Which rows each iteration asks: a pure function of data, seed and iteration, so that resume needs no state.

A stream is read on to the place where an iteration begins; the journal's cursor says how many rows that is.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np

from es_llm.errors import ConfigError
from es_llm.noise.reference import philox4x32
from es_llm.trainer.data.canonical import NoContentError, canonical
from es_llm.types import Row

_ORDER_STREAM = 0xF000_0000
"""Counter word that keeps the order of the data apart from all noise (noise kinds use the four highest bits)."""


class PromptOrder:
    """Walks B rows per iteration through epochs of D rows, each epoch in its own seeded order.

    With B >= D every iteration asks all rows in their own order: the paper's fixed prompts. With `fixed` every
    iteration asks the first B ones.
    """

    def __init__(
        self, rows: Sequence[Row], *, per_iteration: int, seed: int, shuffle: bool, fixed: bool = False
    ) -> None:
        """Order `rows`.

        Raises:
            ConfigError: there are no rows.
        """
        if len(rows) == 0:
            raise ConfigError("`train_dataset` must hold at least one row, got none")
        self.per_iteration = min(per_iteration, len(rows))
        self._all = rows
        self._rows = rows[: self.per_iteration] if fixed else rows
        self._seed = seed
        self._shuffle = shuffle

    def cursor(self, iteration: int) -> int:
        """Rows consumed before `iteration`."""
        return iteration * self.per_iteration

    def epoch(self, iteration: int) -> float:
        """How often all rows were consumed before `iteration`."""
        return self.cursor(iteration) / len(self._rows)

    def first(self) -> Row:
        """The first row."""
        return self._all[0]

    def fingerprint(self, used: Callable[[str], bool] = lambda column: True) -> dict[str, object]:
        """Number of rows and SHA-256 over all of them."""
        return fingerprint(self._all, used)

    def batch(self, iteration: int) -> list[Row]:
        """The B rows of `iteration`."""
        return [self._rows[index] for index in self.indices(iteration)]

    def indices(self, iteration: int) -> list[int]:
        """The row numbers of `iteration`."""
        size = len(self._rows)
        if self.per_iteration == size:
            return list(range(size))
        places = range(self.cursor(iteration), self.cursor(iteration + 1))
        return [self._epoch(place // size)[place % size] for place in places]

    def _epoch(self, epoch: int) -> list[int]:
        if not self._shuffle:
            return list(range(len(self._rows)))
        return _shuffled(len(self._rows), self._seed, epoch)


class PromptStream:
    """Walks B rows per iteration through a `datasets.IterableDataset`, and through it again when it ends.

    Args:
        stream: gives the same rows each time it is iterated.
        per_iteration: B.
        seed: of the order, with `shuffle`: rows are drawn from a buffer of 1,000.
        shuffle: whether each epoch has an order of its own.
        checked: makes rows that a run can use, or raises.
    """

    def __init__(
        self,
        stream: Any,
        *,
        per_iteration: int,
        seed: int,
        shuffle: bool,
        checked: Callable[[Iterable[Any]], list[Row]],
    ) -> None:
        self.per_iteration = per_iteration
        self._checked = checked
        self._plain = stream
        self._stream = stream.shuffle(seed=seed % 2**32, buffer_size=_BUFFER) if shuffle else stream
        self._place, self._rows = 0, self._from_start()
        self._kept: tuple[int, list[Row]] = (-1, [])

    def batch(self, iteration: int) -> list[Row]:
        """The B rows of `iteration`.

        Raises:
            ConfigError: the stream is empty, or a row can't be used.
        """
        if self._kept[0] != iteration:
            start = self.cursor(iteration)
            if start < self._place:
                self._place, self._rows = 0, self._from_start()
            rows = self._checked(
                itertools.islice(self._rows, start - self._place, start - self._place + self.per_iteration)
            )
            self._place = start + self.per_iteration
            self._kept = iteration, rows
        return self._kept[1]

    def cursor(self, iteration: int) -> int:
        """Rows consumed before `iteration`."""
        return iteration * self.per_iteration

    def epoch(self, iteration: int) -> float:
        """Nobody knows how many rows there are."""
        return 0.0

    def first(self) -> Row:
        """The stream's first row, in its own order.

        Raises:
            ConfigError: the stream is empty, or the row can't be used.
        """
        rows = self._checked(itertools.islice(self._plain, 1))
        if not rows:
            raise ConfigError(_EMPTY)
        return rows[0]

    def fingerprint(self, used: Callable[[str], bool] = lambda column: True) -> dict[str, object]:
        """SHA-256 over the first rows."""
        first = list(itertools.islice(self._plain, _SAMPLE))
        return {"stream": True, **fingerprint(first, used)}

    def _from_start(self) -> Iterator[Any]:
        for epoch in itertools.count():
            if hasattr(self._stream, "set_epoch"):
                self._stream.set_epoch(epoch)
            empty = True
            for row in self._stream:
                empty = False
                yield row
            if empty:
                raise ConfigError(_EMPTY)


_EMPTY: Final = "`train_dataset` must give at least one row, got an empty stream"
_BUFFER: Final = 1000
_SAMPLE: Final = 64


@lru_cache(maxsize=4)
def _shuffled(size: int, seed: int, epoch: int) -> list[int]:
    """A permutation of range(size): rows sorted by a 64-bit Philox word of (seed, epoch, row)."""
    counter = np.zeros((size, 4), np.uint32)
    counter[:, 0] = np.arange(size, dtype=np.uint32)
    counter[:, 1] = _ORDER_STREAM
    counter[:, 3] = epoch
    words = philox4x32(counter, (seed & 0xFFFF_FFFF, seed >> 32))
    keys = words[:, 0].astype(np.uint64) << np.uint64(32) | words[:, 1].astype(np.uint64)
    return [int(index) for index in np.argsort(keys, kind="stable")]


def fingerprint(rows: Sequence[Row], used: Callable[[str], bool] = lambda column: True) -> dict[str, object]:
    """Number of rows and SHA-256 over them, by which resume and other ranks know the data again.

    Args:
        rows: whose content counts (see `canonical`).
        used: whether something may read a column.

    Returns:
        `rows`, their number; `sha256`, over the columns that something may read; `all_sha256`, over all columns, as
        earlier versions had it: without those that nothing reads and that have a value without content of its own.
        `left_out` names these, if there are any.

    Raises:
        ConfigError: a column that something may read has such a value; names column, row and type.
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
    """SHA-256 without the columns that nothing reads, and without `left_out` alone; or the row that has no content."""
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
    """The columns of a row that have no content, if nothing reads them."""
    columns = {}
    for column, value in row.items():
        try:
            canonical(value)
        except NoContentError as inner:
            columns[column] = inner
    if not columns:
        raise ConfigError(f"`train_dataset` row {index} can't be known again by a resume: {error}") from error
    for column, fault in columns.items():
        if used(column):
            raise ConfigError(
                f"`train_dataset` row {index}, column {column!r}: got a value of the type {fault}, by which neither a "
                "resume nor another rank could know the data again; remove the column, or make it text, numbers, "
                "bytes, an array or an image"
            ) from fault
    return set(columns)
