"""The factors of one matrix for the pairs of a unit, and the products in which rows take their noise from them.

E = A B^T / sqrt(r) as in EGGROLL (arXiv 2511.16652). In host memory the Rust kernels do the work, on a CUDA device the
Triton kernels: float32 sums, rounded once.

Legend: P pairs, B rows, r rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final, Protocol, final

import torch

from es_llm._core import BatchRows, LowRank, Noise, RowFactors
from es_llm.model.live import DTYPES
from es_llm.noise.backend import NoiseBackend
from es_llm.noise.cpu import as_array
from es_llm.noise.cuda import CudaBackend
from es_llm.noise.launch import Launcher, Lines

_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


@final
class Rows:
    """The rows of a batch.

    Args:
        pairs: index of each row's pair (B,), int64.
        scales: of each row's noise (B,), float32: sigma or -sigma.
    """

    def __init__(self, pairs: torch.Tensor, scales: torch.Tensor) -> None:
        self.size = len(pairs)
        self.pairs, self.scales = pairs, scales

    @cached_property
    def core(self) -> BatchRows:
        """The same for the Rust kernels."""
        return BatchRows(self.pairs.tolist(), self.scales.tolist())

    def at(self, row: torch.Tensor) -> Rows:
        """The rows of some tokens, given the row of each."""
        return Rows(self.pairs[row], self.scales[row])


class Factors(Protocol):
    """Each method returns y with the noise of each row added; y itself may be changed."""

    def add(self, y: torch.Tensor, x: torch.Tensor, rows: Rows, outputs: tuple[int, int] | None = None) -> torch.Tensor:
        """y + s (x B) A^T, for y = x W^T. y (B, ..., out) and x (B, ..., in), or rows and tokens as one dimension.

        Args:
            outputs: the rows of W that y has, [start, stop); None: all.
        """

    def add_transposed(self, y: torch.Tensor, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        """y + s (x A) B^T, for y = x W."""

    def add_embedding(self, y: torch.Tensor, ids: torch.Tensor, rows: Rows) -> torch.Tensor:
        """y + s A[id] B^T, for y = W[id]; ids (B, T)."""


def factors_of(backend: NoiseBackend, noise: Noise, at: LowRank, pairs: Sequence[int]) -> Factors:
    """Draw the factors of some pairs.

    Args:
        backend: of the device on which they are used.
        noise: the iteration; its pair is ignored.
    """
    if isinstance(backend, CudaBackend):
        return CudaFactors(backend.launcher, noise, at, pairs)
    return CpuFactors(RowFactors(noise, at, pairs))


@final
class CpuFactors:
    """`Factors` by the Rust kernels."""

    def __init__(self, drawn: RowFactors) -> None:
        self._drawn = drawn

    def add(self, y: torch.Tensor, x: torch.Tensor, rows: Rows, outputs: tuple[int, int] | None = None) -> torch.Tensor:
        """See `Factors`."""
        y = y.contiguous()
        self._drawn.add(as_array(y), as_array(x.contiguous()), rows.core, dtype=_NAMES[y.dtype], outputs=outputs)
        return y

    def add_transposed(self, y: torch.Tensor, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        """See `Factors`."""
        y = y.contiguous()
        self._drawn.add_transposed(as_array(y), as_array(x.contiguous()), rows.core, dtype=_NAMES[y.dtype])
        return y

    def add_embedding(self, y: torch.Tensor, ids: torch.Tensor, rows: Rows) -> torch.Tensor:
        """See `Factors`."""
        y = y.contiguous()
        self._drawn.add_embedding(as_array(y), ids.contiguous().numpy(), rows.core, dtype=_NAMES[y.dtype])
        return y


@final
class CudaFactors:
    """`Factors` by the Triton kernels, drawn on the device."""

    def __init__(self, launcher: Launcher, noise: Noise, at: LowRank, pairs: Sequence[int]) -> None:
        self._launcher = launcher
        self._left, self._right = launcher.factors(noise, at, pairs)

    def add(self, y: torch.Tensor, x: torch.Tensor, rows: Rows, outputs: tuple[int, int] | None = None) -> torch.Tensor:
        """See `Factors`."""
        return self._add(y, x, rows, (self._left, self._right), first=outputs[0] if outputs else 0)

    def add_transposed(self, y: torch.Tensor, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        """See `Factors`."""
        return self._add(y, x, rows, (self._right, self._left))

    def add_embedding(self, y: torch.Tensor, ids: torch.Tensor, rows: Rows) -> torch.Tensor:
        """See `Factors`."""
        y = y.contiguous()
        factors = self._left, self._right
        self._launcher.add_embedding(y, ids.contiguous(), factors, (rows.pairs, rows.scales))
        return y

    def _add(self, y: torch.Tensor, x: torch.Tensor, rows: Rows, factors: Lines, first: int = 0) -> torch.Tensor:
        y = y.contiguous()
        if y.numel():
            self._launcher.add_rows(y, x.contiguous(), factors, (rows.pairs, rows.scales), first)
        return y
