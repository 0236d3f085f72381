"""The Triton kernels on tensors in the memory of a CUDA device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar, final

import torch

from es_llm._core import Noise, Slice, Terms, UpdateReport
from es_llm.errors import KernelError
from es_llm.noise.backend import At, Deferred, settled
from es_llm.noise.checks import dtype_name, finite_scale, require_pair, require_tensor
from es_llm.noise.launch import Kernels, Launcher
from es_llm.noise.streams import kind_number

_CAPABILITY: Final = (8, 0)  # conversions to bfloat16

T = TypeVar("T")


@final
class CudaBackend:
    """`es_llm.noise.backend.NoiseBackend` for one CUDA device.

    Kernels start on the current stream; only `settle` waits for them.

    Args:
        device: a CUDA device; without an index, the current one.
        kernels: the Triton kernels; tests pass interpreted ones, with the device "cpu".

    Raises:
        KernelError: no such device, a compute capability below 8.0, or no Triton; and from all methods, see
            `es_llm.noise.checks`.
    """

    def __init__(self, device: torch.device, *, kernels: Kernels | None = None) -> None:
        if kernels is None:
            device, kernels = cuda_device(device), triton_kernels()
        self.device = device
        self.launcher = Launcher(device, kernels)

    def settle(self, results: Sequence[T | Deferred[T]]) -> list[T]:
        """The results of a pass, by one read of the device; waits for all work of the current stream."""
        return settled(results)

    def fill(self, out: torch.Tensor, noise: Noise, at: Slice, kind: str = "dense") -> None:
        """out = noise."""
        require_tensor(out, "out", self.device, at)
        kind_number(kind)
        if at.size:
            self.launcher.fill(out.detach(), noise, at, kind)

    def perturb(self, live: torch.Tensor, master: torch.Tensor, noise: Noise, scale: float, at: At) -> Deferred[int]:
        """live = round(master + scale * noise); the number of live values that are NaN or infinite."""
        require_pair(live, master, self.device, self.device, at)
        scale, wrong = finite_scale(scale), self.launcher.counter()
        if at.size:
            self.launcher.perturb(live.detach(), master.detach(), wrong, noise, scale, at)
        return count_of(wrong)

    def round(self, live: torch.Tensor, master: torch.Tensor) -> Deferred[int]:
        """live = round(master), to nearest even; the number of live values that are NaN or infinite."""
        require_pair(live, master, self.device, self.device)
        wrong = self.launcher.counter()
        if master.numel():
            self.launcher.round(live.detach(), master.detach(), wrong)
        return count_of(wrong)

    def accumulate(
        self, master: torch.Tensor, terms: Terms, at: At, live_dtype: torch.dtype
    ) -> UpdateReport | Deferred[UpdateReport]:
        """master += sum over the terms, in order, of coefficient * noise(pair)."""
        require_tensor(master, "master", self.device, at)
        name = dtype_name(live_dtype)
        return report_of(at.size, self.launcher.accumulate(master.detach(), terms, at, name)) if at.size else NO_REPORT

    def digest(self, master: torch.Tensor, at: Slice) -> int | Deferred[int]:
        """Order-free 64-bit digest of the bits."""
        require_tensor(master, "master", self.device, at)
        return digest_of(self.launcher.digest(master.detach(), at)) if at.size else 0


def cuda_device(device: torch.device) -> torch.device:
    """The device with its index.

    Raises:
        KernelError: no such device, or a device without the kernels' instructions.
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
        KernelError: no Triton, or Triton interprets its kernels.
    """
    try:
        import triton

        import es_llm.noise.triton_kernels as kernels
    except ImportError as error:
        raise KernelError(f"the CUDA kernels need Triton: pip install triton ({error})") from error
    knob = getattr(triton, "knobs", None)  # since Triton 3.4
    if (knob and knob.runtime.interpret) or not isinstance(kernels.weights.fill, triton.JITFunction):
        raise KernelError(
            "the CUDA kernels must be compiled, but Triton interprets them (TRITON_INTERPRET is set): interpreted "
            "casts and products round differently, which changes the bits; unset it, or use the CPU backend"
        )
    return kernels


def count_of(wrong: torch.Tensor) -> Deferred[int]:
    """The value of a `Launcher.counter`."""
    return Deferred(wrong, lambda numbers: int(numbers[0]))


def digest_of(total: torch.Tensor) -> Deferred[int]:
    """A sum modulo 2^64, held as an int64 on the device."""
    return Deferred(total.view(1), lambda numbers: int(numbers[0]) % (1 << 64))


def report_of(elements: int, sums: torch.Tensor) -> Deferred[UpdateReport]:
    """The report of `elements` values, from sums in the order of `es_llm.noise.launch.REPORT`."""
    return Deferred(sums, lambda numbers: _report(elements, *numbers))


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
"""The report of an update of no values."""
