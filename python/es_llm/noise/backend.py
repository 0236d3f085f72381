"""What a noise backend must do, on tensors. Knows nothing about models, members or ranks.

A backend is one file: `cpu` runs the Rust kernels; one for CUDA would run Triton. All give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from es_llm._core import UpdateReport
from es_llm.errors import KernelError

if TYPE_CHECKING:
    import torch


class NoiseBackend(Protocol):
    """The kernels. Tensors are contiguous, on the backend's device; masters are float32.

    An address is (run_seed, iteration, pair, tensor, element); `element` is that of the first value, counted in the
    whole, unsharded tensor. All raise NoiseAddressError for an address out of range and KernelError for a tensor that
    they can't take.
    """

    def fill(
        self, out: torch.Tensor, *, run_seed: int, iteration: int, pair: int, tensor: int, element: int = 0
    ) -> None:
        """out = noise: float32 standard normals."""

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
    ) -> None:
        """live = round(fma(scale, noise, master)); the type of `live` is float32, bfloat16 or float16."""

    def round_into(self, live: torch.Tensor, master: torch.Tensor) -> None:
        """live = round(master), to nearest even."""

    def accumulate(
        self,
        master: torch.Tensor,
        *,
        live_dtype: torch.dtype,
        pairs: Sequence[int],
        coefficients: NDArray[np.float32],
        run_seed: int,
        iteration: int,
        tensor: int,
        element: int = 0,
    ) -> UpdateReport:
        """master += sum over the pairs, in order, of coefficient * noise(pair): a chain of float32 FMAs from 0, then
        one addition. `live_dtype` is for the report only."""

    def digest(self, master: torch.Tensor, *, tensor: int, element: int = 0) -> int:
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
