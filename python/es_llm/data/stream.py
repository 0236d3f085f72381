"""Rows of a stream, by iteration. To resume, the stream is read again up to the rows of the iteration."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from es_llm.data.fingerprint import fingerprint
from es_llm.errors import ConfigError
from es_llm.types import Row


def is_stream(dataset: Any) -> bool:
    """True for a `datasets.IterableDataset`: rows are read as they are needed, and their number is unknown."""
    return hasattr(dataset, "set_epoch") and not hasattr(dataset, "__len__")


class PromptStream:
    """Walks B rows per iteration through a `datasets.IterableDataset`, and through it again when it ends."""

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
        self._position, self._rows = 0, self._from_start()
        self._kept: tuple[int, list[Row]] = (-1, [])

    def batch(self, iteration: int) -> list[Row]:
        """The B rows of `iteration`."""
        if self._kept[0] != iteration:
            start = self.cursor(iteration)
            if start < self._position:
                self._position, self._rows = 0, self._from_start()
            rows = self._checked(
                itertools.islice(self._rows, start - self._position, start - self._position + self.per_iteration)
            )
            self._position = start + self.per_iteration
            self._kept = iteration, rows
        return self._kept[1]

    def cursor(self, iteration: int) -> int:
        """Number of rows consumed before `iteration`."""
        return iteration * self.per_iteration

    def epoch(self, iteration: int) -> float:
        """0: the number of rows is unknown."""
        return 0.0

    def first(self) -> Row:
        """The first row of the stream, before shuffling."""
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
