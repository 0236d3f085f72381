"""Which rows each iteration trains on: a pure function of data, seed and iteration, so that resume needs no state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from es_llm.data.fingerprint import fingerprint
from es_llm.errors import ConfigError
from es_llm.noise.streams import DATA_ORDER, random_words
from es_llm.types import Row


class PromptOrder:
    """Walks B rows per iteration through epochs of D rows, each epoch in its own seeded order.

    With B >= D every iteration trains on all rows in their own order: the paper's fixed prompts. With `fixed` every
    iteration trains on the first B rows.
    """

    def __init__(
        self, rows: Sequence[Row], *, per_iteration: int, seed: int, shuffle: bool, fixed: bool = False
    ) -> None:
        if len(rows) == 0:
            raise ConfigError("`train_dataset` must hold at least one row, got none")
        self.per_iteration = min(per_iteration, len(rows))
        self._all = rows
        self._rows = rows[: self.per_iteration] if fixed else rows
        self._seed = seed
        self._shuffle = shuffle

    def cursor(self, iteration: int) -> int:
        """Number of rows consumed before `iteration`."""
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
        positions = range(self.cursor(iteration), self.cursor(iteration + 1))
        return [self._epoch(position // size)[position % size] for position in positions]

    def _epoch(self, epoch: int) -> list[int]:
        if not self._shuffle:
            return list(range(len(self._rows)))
        return _shuffled(len(self._rows), self._seed, epoch)


@lru_cache(maxsize=4)
def _shuffled(size: int, seed: int, epoch: int) -> list[int]:
    """A permutation of range(size): rows sorted by a 64-bit Philox word of (seed, epoch, row)."""
    words = random_words(DATA_ORDER, seed, np.arange(size), 0, epoch)
    keys = words[:, 0].astype(np.uint64) << np.uint64(32) | words[:, 1].astype(np.uint64)
    return [int(index) for index in np.argsort(keys, kind="stable")]
