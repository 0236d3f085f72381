"""Which rows each iteration asks: a pure function of the seed and the iteration, so that resume needs no state."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from es_llm.errors import ConfigError
from es_llm.noise.reference import philox4x32
from es_llm.types import Row

_ORDER_STREAM = 0xF000_0000
"""Counter word that keeps the order of the data apart from all noise (noise kinds use the four highest bits)."""


class PromptOrder:
    """Walks B rows per iteration through epochs of D rows, each epoch in its own seeded order.

    With B >= D every iteration asks all rows in their own order: the paper's fixed prompts.
    """

    def __init__(self, rows: Sequence[Row], *, per_iteration: int, seed: int, shuffle: bool) -> None:
        """Order `rows`.

        Raises:
            ConfigError: there are no rows.
        """
        if len(rows) == 0:
            raise ConfigError("`train_dataset` must hold at least one row, got none")
        self._rows = rows
        self._seed = seed
        self._shuffle = shuffle
        self.per_iteration = min(per_iteration, len(rows))

    def __len__(self) -> int:
        return len(self._rows)

    def cursor(self, iteration: int) -> int:
        """Rows consumed before `iteration`."""
        return iteration * self.per_iteration

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


def fingerprint(rows: Sequence[Row]) -> dict[str, object]:
    """Number of rows and SHA-256 over all of them, by which resume knows the data again."""
    hasher = hashlib.sha256()
    for row in rows:
        hasher.update(json.dumps(dict(row), sort_keys=True, default=str).encode())
        hasher.update(b"\n")
    return {"rows": len(rows), "sha256": hasher.hexdigest()}
