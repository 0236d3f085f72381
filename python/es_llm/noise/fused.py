"""Slices of whole tensors, and the tensors into which inference engines fuse them.

An engine that splits a model over devices holds slices (the rows of some heads, the columns of an output projection),
and often several in one tensor: q, k and v, or gate and up. Noise is numbered in the whole tensors of the model's own
parameter table, so each part is perturbed alone, at its place in its whole, and the engine's layout changes no bit:

    parts = [Slice(3, (2048, 2048), stop=512), Slice(4, (512, 2048), stop=128), Slice(5, (512, 2048), stop=128)]
    counts = [
        backend.perturb_into(live, master, scale=sigma, tensor=part.tensor, **part.place, ...)
        for part, live, master in zip(parts, split(qkv, parts), split(qkv_master, parts))
    ]
    counts = backend.settle(counts)  # of weights that aren't finite; waits for the device, once for all parts
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from es_llm.errors import KernelError
from es_llm.noise.address import NoiseAddress
from es_llm.noise.shard import Shard, shard_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Slice:
    """Indices [start, stop) of dimension `dim` of one whole tensor.

    Args:
        tensor: its number in the parameter table.
        shape: of the whole tensor.
        stop: None is the dimension's end.

    Raises:
        KernelError: a dimension or an index that the tensor doesn't have.
        NoiseAddressError: a tensor, or more elements, than an address can number.
        TypeError: an index that is not an integer.
    """

    tensor: int
    shape: tuple[int, ...]
    dim: int = 0
    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        for name in ("tensor", "dim", "start"):
            object.__setattr__(self, name, operator.index(getattr(self, name)))
        object.__setattr__(self, "stop", None if self.stop is None else operator.index(self.stop))
        object.__setattr__(self, "shape", tuple(operator.index(size) for size in self.shape))
        NoiseAddress(0, 0, 0, self.tensor)
        if any(size < 0 for size in self.shape):
            raise KernelError(f"`shape` must have sizes >= 0, got {self.shape}")
        if not 0 <= self.dim < len(self.shape):
            raise KernelError(f"`dim` must be in [0, {len(self.shape)}) for shape {self.shape}, got {self.dim}")
        size = self.shape[self.dim]
        if not 0 <= self.start <= self.end <= size:
            raise KernelError(
                f"a slice must have 0 <= start <= stop <= {size} in dimension {self.dim} of {self.shape}, "
                f"got {self.start} and {self.stop}"
            )
        _ = self.shard

    @property
    def end(self) -> int:
        """One past the last index."""
        return self.shape[self.dim] if self.stop is None else self.stop

    @property
    def own_shape(self) -> tuple[int, ...]:
        """Shape of the slice."""
        return (*self.shape[: self.dim], self.end - self.start, *self.shape[self.dim + 1 :])

    @property
    def shard(self) -> Shard:
        """Its elements, in the order of the slice."""
        inner = math.prod(self.shape[self.dim + 1 :])
        columns, stride = (self.end - self.start) * inner, self.shape[self.dim] * inner
        size = math.prod(self.own_shape)
        return shard_of(size, element=self.start * inner, columns=max(columns, 1), stride=max(stride, 1))

    @property
    def place(self) -> dict[str, int]:
        """`element`, `columns` and `stride`, as the kernels of dense noise take them."""
        shard = self.shard
        return {"element": shard.element, "columns": shard.columns, "stride": shard.stride}

    @property
    def corner(self) -> dict[str, int]:
        """`row` and `column` of the slice of a matrix, as the kernels of low-rank noise take them.

        Raises:
            KernelError: not a matrix.
        """
        if len(self.shape) != 2:
            raise KernelError(f"low-rank noise is for matrices, got shape {self.shape}")
        return {"row": self.start, "column": 0} if self.dim == 0 else {"row": 0, "column": self.start}


def split(fused: torch.Tensor, slices: Sequence[Slice]) -> list[torch.Tensor]:
    """Views of a tensor that holds the slices one after the other along its first dimension.

    Raises:
        KernelError: the slices don't fill the tensor, it isn't contiguous, or two of the slices overlap.
    """
    if not fused.is_contiguous():
        raise KernelError(f"a fused tensor must be contiguous, got strides {fused.stride()} for {tuple(fused.shape)}")
    rows = [part.own_shape[0] for part in slices]
    if (
        not fused.ndim
        or any(part.own_shape[1:] != tuple(fused.shape[1:]) for part in slices)
        or sum(rows) != fused.shape[0]
    ):
        raise KernelError(
            f"a fused tensor of shape {tuple(fused.shape)} can't hold slices of shapes "
            f"{', '.join(str(part.own_shape) for part in slices)} along its first dimension"
        )
    for i, part in enumerate(slices):
        for other in slices[:i]:
            if _overlap(part, other):
                raise KernelError(f"slices overlap: {other} and {part}; tied weights are perturbed once")
            if part.tensor == other.tensor and part.shape != other.shape:
                raise KernelError(f"one tensor has one shape: {other} and {part}")
    ends = list(itertools.accumulate(rows))
    return [fused.detach()[end - size : end] for size, end in zip(rows, ends, strict=True)]


def _overlap(a: Slice, b: Slice) -> bool:
    if a.tensor != b.tensor or 0 in (*a.own_shape, *b.own_shape):
        return False
    return a.dim != b.dim or (a.start < b.end and b.start < a.end)
