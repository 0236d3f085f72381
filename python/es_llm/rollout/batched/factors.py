"""The factors of one matrix for the pairs of a unit, and the products in which rows take their noise from them.

E = A B^T / sqrt(r) as in EGGROLL (arXiv 2511.16652). In host memory the Rust kernels do the work; on other devices
torch does it: float32 sums, rounded once.

Legend: P pairs, B rows, r rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, final

import torch

from es_llm._core import BatchRows, LowRank, Noise, RowFactors
from es_llm.model.live import DTYPES
from es_llm.noise.cpu import as_array

_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


@final
class Rows:
    """The rows of a batch: the index of each row's pair (B,), and the scale of its noise (B,): sigma or -sigma."""

    def __init__(self, pairs: Sequence[int], scales: Sequence[float], device: torch.device) -> None:
        self.size = len(pairs)
        self.core = BatchRows(pairs, scales)
        self.pairs = torch.tensor(pairs, device=device)
        self.scales = torch.tensor(scales, dtype=torch.float32, device=device)

    def at(self, row: torch.Tensor) -> Rows:
        """The rows of some tokens, given the row of each."""
        return Rows(self.pairs[row].tolist(), self.scales[row].tolist(), self.pairs.device)


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


def factors_of(noise: Noise, at: LowRank, pairs: Sequence[int], device: torch.device) -> Factors:
    """Draw the factors of some pairs.

    Args:
        noise: the iteration; its pair is ignored.
    """
    drawn = RowFactors(noise, at, pairs)
    return CpuFactors(drawn) if device.type == "cpu" else TorchFactors(drawn, device)


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
class TorchFactors:
    """`Factors` by torch, on any device; what `CpuFactors` is tested against."""

    def __init__(self, drawn: RowFactors, device: torch.device) -> None:
        self._a = torch.from_numpy(drawn.a).to(device)
        self._b = torch.from_numpy(drawn.b).to(device)

    def add(self, y: torch.Tensor, x: torch.Tensor, rows: Rows, outputs: tuple[int, int] | None = None) -> torch.Tensor:
        """See `Factors`."""
        return _add(y, x, rows, self._a if outputs is None else self._a[:, :, slice(*outputs)], self._b)

    def add_transposed(self, y: torch.Tensor, x: torch.Tensor, rows: Rows) -> torch.Tensor:
        """See `Factors`."""
        return _add(y, x, rows, self._b, self._a)

    def add_embedding(self, y: torch.Tensor, ids: torch.Tensor, rows: Rows) -> torch.Tensor:
        """See `Factors`."""
        a_BTR = self._a.transpose(1, 2)[rows.pairs[:, None], ids] * rows.scales[:, None, None]
        return (y + torch.bmm(a_BTR, self._b[rows.pairs])).to(y.dtype)


def _add(y: torch.Tensor, x: torch.Tensor, rows: Rows, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """y + s (x right^T) left, with left (P, r, out) and right (P, r, in)."""
    x_BTK = x.reshape(rows.size, -1, x.shape[-1]).float()
    products_BTR = torch.bmm(x_BTK, right[rows.pairs].transpose(1, 2)) * rows.scales[:, None, None]
    return (y + torch.bmm(products_BTR, left[rows.pairs]).view(y.shape)).to(y.dtype)
