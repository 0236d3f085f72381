"""The protocol of noise backends, on tensors. Knows nothing about models, members or ranks, and loads no torch.

A backend is one file: `cpu` runs the Rust kernels, `cuda` and `streamed` the Triton kernels. All give the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar, final

from es_llm._core import LowRank, Noise, Slice, Terms, UpdateReport
from es_llm.errors import KernelError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

At: TypeAlias = Slice | LowRank
"""The values of a tensor within the whole, unsharded tensor: `Slice` gets dense noise, `LowRank` low-rank noise."""


@final
@dataclass(frozen=True)
class Deferred(Generic[T]):
    """A result whose `numbers` (n,) are still on a device; `make` turns them, as a list, into the result.

    `NoiseBackend.settle` waits for the numbers, once for all results of a pass.
    """

    numbers: torch.Tensor
    make: Callable[[list[Any]], T]


class NoiseBackend(Protocol):
    """The kernels. Tensors are contiguous and on the backend's device; masters are float32.

    `Noise`, `Slice`, `LowRank` and `Terms` are checked when they are made. A kernel checks its tensors, also against
    the slice, and raises KernelError (see `es_llm.noise.checks`) before anything is written.

    Kernels that write live weights return the number of live weights that are NaN or infinite. Results may be
    `Deferred`, and writes may still be in progress: a pass calls a kernel for each tensor, then `settle` once.
    """

    def settle(self, results: Sequence[T | Deferred[T]]) -> list[T]:
        """The results of a pass as plain numbers and reports, by one read of the device.

        Masters in host memory may be read by other code only after this returns. A pass that fails must end with
        this call too.
        """

    def fill(self, out: torch.Tensor, noise: Noise, at: Slice, kind: str = "dense") -> None:
        """out = noise: float32 standard normals. `kind` is "dense", or "low_rank_a" or "low_rank_b" for the factors
        A (out, rank) and B (in, rank) of a matrix, row by row."""

    def perturb(
        self, live: torch.Tensor, master: torch.Tensor, noise: Noise, scale: float, at: At
    ) -> int | Deferred[int]:
        """live = round(fma(scale, noise, master)), or round(master + scale / sqrt(rank) * A B^T) for low-rank noise.

        The type of `live` is float32, bfloat16 or float16. E = A B^T / sqrt(rank) as in EGGROLL (arXiv 2511.16652).
        """

    def round(self, live: torch.Tensor, master: torch.Tensor) -> int | Deferred[int]:
        """live = round(master), to nearest even."""

    def accumulate(
        self, master: torch.Tensor, terms: Terms, at: At, live_dtype: torch.dtype
    ) -> UpdateReport | Deferred[UpdateReport]:
        """master += sum over the terms, in order, of coefficient * noise(pair): a chain of float32 FMAs from 0, then
        one addition. Low-rank noise is summed as one product over pairs and rank; no A B^T is built.

        `live_dtype` matters to the report only. Beside the weights, low-rank noise needs memory for factors: on a CPU
        those of all N pairs, 4 N rank (rows + columns) bytes, if they fit in 32 MiB, else those of 240 rows and 1024
        columns per thread, some pairs at a time (28 MB at rank 1024 on two threads); on a GPU those of all N pairs,
        drawn and laid out, 8 N rank (rows + columns) bytes.
        """

    def digest(self, master: torch.Tensor, at: Slice) -> int | Deferred[int]:
        """Order-free 64-bit digest of the bits; digests of slices and tensors add up modulo 2**64."""


def backend_for(device: torch.device) -> NoiseBackend:
    """The backend for a device.

    Raises:
        KernelError: no backend for this type of device.
    """
    if device.type == "cpu":
        from es_llm.noise.cpu import CpuBackend

        return CpuBackend()
    if device.type == "cuda":
        from es_llm.noise.cuda import CudaBackend

        return CudaBackend(device)
    raise KernelError(f"the noise kernels work on CPUs and CUDA devices, got the device {str(device)!r}")


def settled(results: Iterable[T | Deferred[T]]) -> list[T]:
    """The results of a pass. All deferred results are read from the device at once and must have one type of number."""
    results = list(results)
    deferred = [result.numbers for result in results if isinstance(result, Deferred)]
    numbers = iter(_read(deferred))
    return [
        result.make(list(islice(numbers, len(result.numbers)))) if isinstance(result, Deferred) else result
        for result in results
    ]


def _read(deferred: list[torch.Tensor]) -> list[Any]:
    if not deferred:
        return []
    import torch

    numbers: list[Any] = torch.cat(deferred).tolist()
    return numbers
