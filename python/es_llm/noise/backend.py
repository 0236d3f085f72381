"""What a noise backend must do, on tensors. Knows nothing about models, members or ranks.

A backend is one file: `cpu` runs the Rust kernels, `cuda` and `streamed` the Triton ones. All give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from es_llm._core import UpdateReport
from es_llm.errors import KernelError
from es_llm.noise.checks import Pairs
from es_llm.noise.pending import Pending

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class NoiseBackend(Protocol):
    """The kernels. Tensors are contiguous, on the backend's device; masters are float32.

    An address is (run_seed, iteration, pair, tensor, element); `element` is that of the first value, counted in the
    whole, unsharded tensor. A shard that isn't one run of elements has rows: value i is element
    `element + (i // columns) * stride + i % columns` (see `es_llm.noise.shard`). All raise NoiseAddressError for an
    address out of range and KernelError for what else they can't take (see `es_llm.noise.checks`), before anything is
    written.

    What writes live weights returns how many of them are NaN or infinite. Results may be `Pending`, and what is
    written may still be on its way: a pass over many tensors calls a kernel for each, and then `settle` once.
    """

    def settle(self, results: Sequence[T | Pending[T]]) -> list[T]:
        """The results of a pass as plain numbers and reports, read from the device at once.

        Masters in host memory hold what was written to them when this returns, and may be read by other kernels or
        anyone else from then on. A pass that fails ends with it too.
        """

    def fill(
        self,
        out: torch.Tensor,
        *,
        run_seed: int,
        iteration: int,
        pair: int,
        tensor: int,
        element: int = 0,
        kind: str = "dense",
    ) -> None:
        """out = noise: float32 standard normals. `kind` is "dense", or "low_rank_a" or "low_rank_b" for the factors
        A (out, rank) and B (in, rank) of a matrix, row by row."""

    def perturb_into(
        self,
        live: torch.Tensor,
        master: torch.Tensor,
        *,
        scale: float,
        run_seed: int,
        iteration: int,
        pair: int,
        tensor: int,
        element: int = 0,
        columns: int | None = None,
        stride: int | None = None,
    ) -> int | Pending[int]:
        """live = round(fma(scale, noise, master)); the type of `live` is float32, bfloat16 or float16."""

    def perturb_low_rank_into(
        self,
        live: torch.Tensor,
        master: torch.Tensor,
        *,
        rank: int,
        scale: float,
        run_seed: int,
        iteration: int,
        pair: int,
        tensor: int,
        row: int = 0,
        column: int = 0,
    ) -> int | Pending[int]:
        """live = round(master + scale / sqrt(rank) * A B^T), for the block (rows, columns) of a matrix that begins at
        (row, column).
        E = A B^T / sqrt(rank) as in EGGROLL (arXiv 2511.16652)."""

    def round_into(self, live: torch.Tensor, master: torch.Tensor) -> int | Pending[int]:
        """live = round(master), to nearest even."""

    def accumulate(
        self,
        master: torch.Tensor,
        *,
        live_dtype: torch.dtype,
        pairs: Pairs,
        coefficients: NDArray[np.float32],
        run_seed: int,
        iteration: int,
        tensor: int,
        element: int = 0,
        columns: int | None = None,
        stride: int | None = None,
    ) -> UpdateReport | Pending[UpdateReport]:
        """master += sum over the pairs, in order, of coefficient * noise(pair): a chain of float32 FMAs from 0, then
        one addition. `pairs` may be an array of uint32; `live_dtype` is for the report only."""

    def accumulate_low_rank(
        self,
        master: torch.Tensor,
        *,
        rank: int,
        live_dtype: torch.dtype,
        pairs: Pairs,
        coefficients: NDArray[np.float32],
        run_seed: int,
        iteration: int,
        tensor: int,
        row: int = 0,
        column: int = 0,
    ) -> UpdateReport | Pending[UpdateReport]:
        """master += sum over the pairs, in order, of coefficient / sqrt(rank) * A B^T, for a block of a matrix: one
        product over pairs and rank, without building any A B^T.

        Beside the weights it holds factors: on a CPU those of 240 rows and 1024 columns per thread, a pair at a time
        (28 MB at rank 1024 on two threads); on a GPU A and B of all N pairs, drawn and laid out, 8 N rank (rows +
        columns) bytes.
        """

    def digest(
        self,
        master: torch.Tensor,
        *,
        tensor: int,
        element: int = 0,
        columns: int | None = None,
        stride: int | None = None,
    ) -> int | Pending[int]:
        """Order-free 64-bit digest of the bits; digests of shards and tensors add up modulo 2**64."""


def backend_for(device: torch.device) -> NoiseBackend:
    """The backend that works on this device.

    Raises:
        KernelError: no backend for this kind of device.
    """
    if device.type == "cpu":
        from es_llm.noise.cpu import CpuBackend

        return CpuBackend()
    if device.type == "cuda":
        from es_llm.noise.cuda import CudaBackend

        return CudaBackend(device)
    raise KernelError(f"the noise kernels work on CPUs and CUDA devices, got the device {str(device)!r}")
