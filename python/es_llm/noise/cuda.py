"""The Triton kernels on tensors in the memory of a CUDA device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray

from es_llm._core import UpdateReport
from es_llm.errors import KernelError
from es_llm.noise.address import NoiseAddress, kind_number
from es_llm.noise.checks import (
    Members,
    Pairs,
    dtype_name,
    finite_scale,
    members_of,
    require_block,
    require_one_shape,
    require_pair,
    require_tensor,
)
from es_llm.noise.launch import Kernels, Launcher
from es_llm.noise.pending import Pending, settled
from es_llm.noise.shard import shard_of

_CAPABILITY: Final = (8, 0)  # conversions to bfloat16

T = TypeVar("T")


@final
class CudaBackend:
    """`es_llm.noise.backend.NoiseBackend` for one CUDA device.

    Kernels start on the current stream, and nothing waits for them but `settle`.

    Args:
        device: a CUDA device; without an index, the current one.
        kernels: the Triton kernels; tests give those of Triton's interpreter, with the device "cpu".

    Raises:
        KernelError: no such device, one below compute capability 8.0, or no Triton.
        All methods raise what `es_llm.noise.checks` refuses, before anything is written.
    """

    def __init__(self, device: torch.device, *, kernels: Kernels | None = None) -> None:
        if kernels is None:
            device, kernels = cuda_device(device), triton_kernels()
        self.device = device
        self.launcher = Launcher(device, kernels)

    def settle(self, results: Sequence[T | Pending[T]]) -> list[T]:
        """The results of a pass, in one read of the device; waits for all that the current stream does."""
        return settled(results)

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
        """out = noise."""
        address = NoiseAddress(run_seed, iteration, pair, tensor, element)
        size = require_tensor(out, "out", self.device).numel()
        shard = shard_of(size, element=element, columns=None, stride=None)
        kind_number(kind)
        if shard.size:
            self.launcher.fill(out.detach(), shard, address, kind)

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
    ) -> Pending[int]:
        """live = round(fma(scale, noise, master)); how many live values are NaN or infinite."""
        address = NoiseAddress(run_seed, iteration, pair, tensor, element)
        require_pair(live, master, self.device, self.device)
        scale = finite_scale(scale)
        shard = shard_of(master.numel(), element=element, columns=columns, stride=stride)
        wrong = self.launcher.counter()
        if shard.size:
            self.launcher.perturb(live.detach(), master.detach(), wrong, scale=scale, shard=shard, address=address)
        return count_of(wrong)

    def round_into(self, live: torch.Tensor, master: torch.Tensor) -> Pending[int]:
        """live = round(master), to nearest even; how many live values are NaN or infinite."""
        require_pair(live, master, self.device, self.device)
        wrong = self.launcher.counter()
        if master.numel():
            self.launcher.round_into(live.detach(), master.detach(), wrong)
        return count_of(wrong)

    def accumulate(
        self,
        master: torch.Tensor,
        *,
        live_dtype: torch.dtype | str,
        pairs: Pairs,
        coefficients: NDArray[np.float32],
        run_seed: int,
        iteration: int,
        tensor: int,
        element: int = 0,
        columns: int | None = None,
        stride: int | None = None,
    ) -> UpdateReport | Pending[UpdateReport]:
        """master += sum over the pairs, in order, of coefficient * noise(pair)."""
        address = NoiseAddress(run_seed, iteration, 0, tensor, element)
        require_tensor(master, "master", self.device)
        members = members_of(pairs, coefficients)
        shard = shard_of(master.numel(), element=element, columns=columns, stride=stride)
        name = dtype_name(live_dtype)
        if not shard.size:
            return NO_REPORT
        there = self.launcher.members(members)
        sums = self.launcher.accumulate(master.detach(), there, live_dtype=name, shard=shard, address=address)
        return report_of(shard.size, sums)

    def digest(
        self,
        master: torch.Tensor,
        *,
        tensor: int,
        element: int = 0,
        columns: int | None = None,
        stride: int | None = None,
    ) -> int | Pending[int]:
        """Order-free 64-bit digest of the bits."""
        tensor = NoiseAddress(0, 0, 0, tensor, element).tensor
        size = require_tensor(master, "master", self.device).numel()
        shard = shard_of(size, element=element, columns=columns, stride=stride)
        return digest_of(self.launcher.digest(master.detach(), shard=shard, tensor=tensor)) if shard.size else 0

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
    ) -> Pending[int]:
        """live = round(master + scale * E), E the pair's low-rank noise; how many live values aren't finite."""
        address = NoiseAddress(run_seed, iteration, pair, tensor)
        require_pair(live, master, self.device, self.device)
        require_block(master, rank=rank, row=row, column=column)
        require_one_shape(live, master)
        member = member_of(address.pair, scale)
        wrong = self.launcher.counter()
        if master.numel():
            lines = self.launcher.low_rank_lines(
                self.launcher.members(member),
                rank=rank,
                address=address,
                first=(row, column),
                shape=(master.shape[0], master.shape[1]),
            )
            self.launcher.perturb_low_rank(live.detach(), master.detach(), wrong, lines)
        return count_of(wrong)

    def accumulate_low_rank(
        self,
        master: torch.Tensor,
        *,
        rank: int,
        live_dtype: torch.dtype | str,
        pairs: Pairs,
        coefficients: NDArray[np.float32],
        run_seed: int,
        iteration: int,
        tensor: int,
        row: int = 0,
        column: int = 0,
    ) -> UpdateReport | Pending[UpdateReport]:
        """master += sum over the pairs, in order, of coefficient * E(pair). The pairs' factors need
        4 * rank * (rows + columns) bytes each beside."""
        address = NoiseAddress(run_seed, iteration, 0, tensor)
        require_tensor(master, "master", self.device)
        require_block(master, rank=rank, row=row, column=column)
        members = members_of(pairs, coefficients)
        name = dtype_name(live_dtype)
        if not master.numel():
            return NO_REPORT
        lines = self.launcher.low_rank_lines(
            self.launcher.members(members),
            rank=rank,
            address=address,
            first=(row, column),
            shape=(master.shape[0], master.shape[1]),
        )
        return report_of(master.numel(), self.launcher.accumulate_low_rank(master.detach(), lines, live_dtype=name))


def cuda_device(device: torch.device) -> torch.device:
    """The device with its index.

    Raises:
        KernelError: no such device, or one that the kernels don't work on.
    """
    if device.type != "cuda":
        raise KernelError(f"the CUDA kernels work on CUDA devices, got {str(device)!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.index if device.index is not None else torch.cuda.current_device() if count else 0
    if index >= count:
        raise KernelError(f"{str(device)!r}: no such device, torch {torch.__version__} sees {count} CUDA devices")
    capability = torch.cuda.get_device_capability(index)
    if capability < _CAPABILITY:
        raise KernelError(f"{str(device)!r} has compute capability {capability}, expected {_CAPABILITY} or more")
    return torch.device("cuda", index)


def triton_kernels() -> Kernels:
    """The kernels, compiled for devices.

    Raises:
        KernelError: no Triton, or one that interprets.
    """
    try:
        import triton

        import es_llm.noise.triton_kernels as kernels
    except ImportError as error:
        raise KernelError(f"the CUDA kernels need Triton: pip install triton ({error})") from error
    knob = getattr(triton, "knobs", None)  # since Triton 3.4
    if (knob and knob.runtime.interpret) or not isinstance(kernels.weights.fill, triton.JITFunction):
        raise KernelError(
            "the CUDA kernels must be compiled, but Triton interprets them (TRITON_INTERPRET is set): its casts and "
            "products round otherwise, which gives other bits; unset it, or use the CPU backend"
        )
    return kernels


def member_of(pair: int, scale: float) -> Members:
    """The one member of a perturbation."""
    return Members(np.array([pair], np.uint32), np.array([finite_scale(scale)], np.float32))


def count_of(wrong: torch.Tensor) -> Pending[int]:
    """What a `Launcher.counter` holds."""
    return Pending(wrong, lambda numbers: int(numbers[0]))


def digest_of(total: torch.Tensor) -> Pending[int]:
    """A sum modulo 2^64, which is an int64 on the device."""
    return Pending(total.view(1), lambda numbers: int(numbers[0]) % (1 << 64))


def report_of(elements: int, sums: torch.Tensor) -> Pending[UpdateReport]:
    """The report of `elements` values, of the sums in `es_llm.noise.launch.REPORT`'s order."""
    return Pending(sums, lambda numbers: _report(elements, *numbers))


def _report(
    elements: int, moved: float, nonfinite: float, intended: float, actual: float, product: float
) -> UpdateReport:
    return UpdateReport(
        elements=elements,
        moved=int(moved),
        nonfinite=int(nonfinite),
        intended_square=intended,
        actual_square=actual,
        product=product,
    )


NO_REPORT: Final = _report(0, 0, 0, 0, 0, 0)
"""Of no values."""
