"""The Triton kernels on tensors in the memory of a CUDA device."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final, final

import numpy as np
import torch
from numpy.typing import NDArray

from es_llm._core import MAX_RANK, UpdateReport
from es_llm.errors import KernelError
from es_llm.noise.address import NoiseAddress, kind_number, whole
from es_llm.noise.backend import require_one_shape
from es_llm.noise.cpu import dtype_name
from es_llm.noise.launch import Kernels, Launcher
from es_llm.noise.shard import shard_of

_CAPABILITY: Final = (8, 0)  # conversions to bfloat16


@final
class CudaBackend:
    """`es_llm.noise.backend.NoiseBackend` for one CUDA device.

    Kernels start on the current stream; methods that return a number wait for it.

    Args:
        device: a CUDA device; without an index, the current one.
        kernels: the Triton kernels; tests give those of Triton's interpreter, with the device "cpu".

    Raises:
        KernelError: no such device, one below compute capability 8.0, or no Triton.
        All methods raise KernelError for a tensor that is not contiguous, on another device, overlapping, of another
        type or length, and NoiseAddressError for an address out of range, before anything is written.
    """

    def __init__(self, device: torch.device, *, kernels: Kernels | None = None) -> None:
        if kernels is None:
            device, kernels = cuda_device(device), triton_kernels()
        self.device = device
        self.launcher = Launcher(device, kernels)

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
        shard = shard_of(check(out, "out", self.device).numel(), element=element, columns=None, stride=None)
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
    ) -> int:
        """live = round(fma(scale, noise, master)); how many live values are NaN or infinite."""
        address = NoiseAddress(run_seed, iteration, pair, tensor, element)
        check_pair(live, master, self.device, self.device)
        shard = shard_of(master.numel(), element=element, columns=columns, stride=stride)
        flag = self.launcher.flag()
        if shard.size:
            self.launcher.perturb(live.detach(), master.detach(), flag, scale=scale, shard=shard, address=address)
        return wrong_values(live, flag)

    def round_into(self, live: torch.Tensor, master: torch.Tensor) -> int:
        """live = round(master), to nearest even; how many live values are NaN or infinite."""
        check_pair(live, master, self.device, self.device)
        flag = self.launcher.flag()
        if master.numel():
            self.launcher.round_into(live.detach(), master.detach(), flag)
        return wrong_values(live, flag)

    def accumulate(
        self,
        master: torch.Tensor,
        *,
        live_dtype: torch.dtype | str,
        pairs: Sequence[int],
        coefficients: NDArray[np.float32],
        run_seed: int,
        iteration: int,
        tensor: int,
        element: int = 0,
        columns: int | None = None,
        stride: int | None = None,
    ) -> UpdateReport:
        """master += sum over the pairs, in order, of coefficient * noise(pair)."""
        address = NoiseAddress(run_seed, iteration, 0, tensor, element)
        check(master, "master", self.device)
        pairs = check_members(pairs, coefficients)
        shard = shard_of(master.numel(), element=element, columns=columns, stride=stride)
        name = dtype_name(live_dtype)
        if not shard.size:
            return report(0, None)
        members = self.launcher.members(pairs, coefficients)
        sums = self.launcher.accumulate(master.detach(), members, live_dtype=name, shard=shard, address=address)
        return report(shard.size, sums)

    def digest(
        self,
        master: torch.Tensor,
        *,
        tensor: int,
        element: int = 0,
        columns: int | None = None,
        stride: int | None = None,
    ) -> int:
        """Order-free 64-bit digest of the bits."""
        tensor = NoiseAddress(0, 0, 0, tensor, element).tensor
        shard = shard_of(check(master, "master", self.device).numel(), element=element, columns=columns, stride=stride)
        if not shard.size:
            return 0
        return int(self.launcher.digest(master.detach(), shard=shard, tensor=tensor)) % (1 << 64)

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
    ) -> int:
        """live = round(master + scale * E), E the pair's low-rank noise; how many live values aren't finite."""
        address = check_low_rank(master, rank, NoiseAddress(run_seed, iteration, pair, tensor), row, column)
        check_pair(live, master, self.device, self.device)
        require_one_shape(live, master)
        flag = self.launcher.flag()
        if master.numel():
            members = self.launcher.members([pair], np.array([scale], np.float32))
            lines = self.launcher.low_rank_lines(
                members, rank=rank, address=address, first=(row, column), shape=(master.shape[0], master.shape[1])
            )
            self.launcher.perturb_low_rank(live.detach(), master.detach(), flag, lines)
        return wrong_values(live, flag)

    def accumulate_low_rank(
        self,
        master: torch.Tensor,
        *,
        rank: int,
        live_dtype: torch.dtype | str,
        pairs: Sequence[int],
        coefficients: NDArray[np.float32],
        run_seed: int,
        iteration: int,
        tensor: int,
        row: int = 0,
        column: int = 0,
    ) -> UpdateReport:
        """master += sum over the pairs, in order, of coefficient * E(pair). The pairs' factors need
        4 * rank * (rows + columns) bytes each beside."""
        address = check_low_rank(master, rank, NoiseAddress(run_seed, iteration, 0, tensor), row, column)
        check(master, "master", self.device)
        pairs = check_members(pairs, coefficients)
        name = dtype_name(live_dtype)
        if not master.numel():
            return report(0, None)
        lines = self.launcher.low_rank_lines(
            self.launcher.members(pairs, coefficients),
            rank=rank,
            address=address,
            first=(row, column),
            shape=(master.shape[0], master.shape[1]),
        )
        return report(master.numel(), self.launcher.accumulate_low_rank(master.detach(), lines, live_dtype=name))


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
    """The kernels.

    Raises:
        KernelError: no Triton.
    """
    try:
        import es_llm.noise.triton_kernels as kernels
    except ImportError as error:
        raise KernelError(f"the CUDA kernels need Triton: pip install triton ({error})") from error
    return kernels


def check(tensor: Any, name: str, device: torch.device, *, live: bool = False) -> torch.Tensor:
    """A tensor that the kernels can take: contiguous, on the device, float32 or, for `live`, a live type.

    Raises:
        KernelError: says what differs.
    """
    if not isinstance(tensor, torch.Tensor):
        raise KernelError(f"`{name}` must be a torch tensor, got {type(tensor).__name__}")
    if tensor.device != device:
        raise KernelError(f"`{name}` must be on {device}, got {tensor.device}")
    if live:
        dtype_name(tensor.dtype)
    elif tensor.dtype != torch.float32:
        raise KernelError(f"`{name}` must be float32, got {tensor.dtype}")
    if not tensor.is_contiguous():
        raise KernelError(f"`{name}` must be contiguous, got strides {tensor.stride()} for {tuple(tensor.shape)}")
    if tensor.is_neg():
        raise KernelError(f"`{name}` must hold its own values, got a view of negated ones (call resolve_neg())")
    return tensor


def check_pair(live: Any, master: Any, live_device: torch.device, master_device: torch.device) -> None:
    """Refuse what `check` refuses, different lengths, and memory that both have.

    Raises:
        KernelError: says what differs.
    """
    check(live, "live", live_device, live=True)
    check(master, "master", master_device)
    if live.numel() != master.numel():
        raise KernelError(
            f"`live` and `master` must have the same number of elements, got {live.numel()} and {master.numel()}"
        )
    spans = sorted((x.data_ptr(), x.data_ptr() + x.numel() * x.element_size()) for x in (live, master) if x.numel())
    if any(start < end for (_, end), (start, _) in itertools.pairwise(spans)):
        raise KernelError("`live` and `master` share memory, expected two tensors")


def check_members(pairs: Sequence[int], coefficients: Any) -> list[int]:
    """The pairs as ints; refuses pairs and coefficients that don't belong together.

    Raises:
        KernelError: different lengths, or coefficients that aren't float32.
        NoiseAddressError: a pair out of range.
    """
    if not isinstance(coefficients, np.ndarray) or coefficients.dtype != np.float32 or coefficients.ndim != 1:
        raise KernelError(f"`coefficients` must be a numpy array (N,) of float32, got {coefficients!r}")
    if len(pairs) != len(coefficients):
        raise KernelError(
            f"`pairs` and `coefficients` must have the same length, got {len(pairs)} and {len(coefficients)}"
        )
    return [NoiseAddress(0, 0, pair, 0).pair for pair in pairs]


def check_low_rank(master: torch.Tensor, rank: int, address: NoiseAddress, row: int, column: int) -> NoiseAddress:
    """Refuse what isn't a matrix, a rank out of range, and factors beyond the last element; gives the address back.

    Raises:
        KernelError, NoiseAddressError: says what differs.
    """
    if getattr(master, "ndim", None) != 2:
        raise KernelError(f"`master` must have 2 dimensions for low-rank noise, got {tuple(np.shape(master))}")
    if not 1 <= whole(rank, "rank") <= MAX_RANK:
        raise KernelError(f"`rank` must be in [1, {MAX_RANK}], got {rank}")
    for first, size in ((row, master.shape[0]), (column, master.shape[1])):
        shard_of(size * rank, element=first * rank, columns=None, stride=None)
    return address


def wrong_values(live: torch.Tensor, flag: torch.Tensor) -> int:
    """How many live values are NaN or infinite: none, unless a kernel set the flag."""
    return live.numel() - int(torch.isfinite(live.detach()).sum()) if int(flag) else 0


def report(elements: int, sums: torch.Tensor | None) -> UpdateReport:
    """The report of `elements` values, of the sums in `es_llm.noise.launch.REPORT`'s order; None is no values."""
    moved, nonfinite, intended, actual, product = sums.tolist() if sums is not None else (0.0,) * 5
    return UpdateReport(
        elements=elements,
        moved=int(moved),
        nonfinite=int(nonfinite),
        intended_square=intended,
        actual_square=actual,
        product=product,
    )
