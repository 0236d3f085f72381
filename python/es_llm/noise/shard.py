"""Where the values of a shard lie in the whole, unsharded tensor. Knows no tensors and loads no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from es_llm._core import MAX_ELEMENTS
from es_llm.errors import KernelError, NoiseAddressError
from es_llm.noise.address import whole

BLOCK: Final = 4
"""Values of one Philox block."""


@dataclass(frozen=True)
class Shard:
    """`size` values in rows of `columns`; row r begins at element `element` + r * `stride` of the whole tensor.

    A run of consecutive elements is one row.
    """

    size: int
    element: int
    columns: int
    stride: int

    @property
    def rows(self) -> int:
        """Rows of the shard."""
        return self.size // self.columns if self.size else 0

    @property
    def end(self) -> int:
        """One past the last element."""
        return self.element + (self.rows - 1) * self.stride + self.columns if self.size else self.element

    @property
    def even(self) -> bool:
        """Whether every row begins with a block and has a multiple of 16 values."""
        aligned = self.element % BLOCK == 0 and (self.rows <= 1 or self.stride % BLOCK == 0)
        return aligned and self.columns % 16 == 0

    def carries(self, slack: int) -> bool:
        """Whether the upper bits of the block index (from 2^32 blocks on) change up to `slack` values past the end."""
        return self.element // BLOCK >> 32 != (self.end + slack) // BLOCK >> 32

    def pieces(self, limit: int) -> Iterator[tuple[int, Shard]]:
        """(index of the first value, shard) of consecutive parts of at most `limit` values, a multiple of 16: whole
        rows where they fit, else parts of a row."""
        if self.rows == 1 or self.columns > limit:
            for row in range(self.rows):
                for column in range(0, self.columns, limit):
                    size = min(limit, self.columns - column)
                    element = self.element + row * self.stride + column
                    yield row * self.columns + column, Shard(size, element, size, size)
            return
        step = limit // self.columns
        for row in range(0, self.rows, step):
            size = min(step, self.rows - row) * self.columns
            yield row * self.columns, Shard(size, self.element + row * self.stride, self.columns, self.stride)


def shard_of(size: int, *, element: int, columns: int | None, stride: int | None) -> Shard:
    """The shard that a kernel's arguments describe; `columns` and `stride` are None for one run of elements.

    Raises:
        KernelError: only one of `columns` and `stride`, or values that don't fit them.
        NoiseAddressError: an element out of range, or a word that is no integer.
    """
    element = whole(element, "element")
    columns = columns if columns is None else whole(columns, "columns")
    stride = stride if stride is None else whole(stride, "stride")
    if (columns is None) != (stride is None):
        raise KernelError(f"`columns` and `stride` go together, got columns = {columns} and stride = {stride}")
    if columns is None or stride is None:
        shard = Shard(size, element, max(size, 1), max(size, 1))
    else:
        if columns < 1 or size % columns:
            raise KernelError(f"`columns` must be >= 1 and divide the number of values, {size}, got {columns}")
        if stride < columns:
            raise KernelError(f"`stride` must be >= `columns`, {columns}, got {stride}")
        shard = Shard(size, element, columns, stride)
    if not 0 <= element < MAX_ELEMENTS or shard.end > MAX_ELEMENTS:
        raise NoiseAddressError(
            f"elements must be in [0, {MAX_ELEMENTS}) (2**42), got {size} values from `element` = {element}"
            f" to {shard.end - 1}"
        )
    return shard
