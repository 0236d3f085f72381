"""The Rust kernels on torch tensors in host memory, without a copy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, final

from numpy.typing import NDArray

from es_llm import _core
from es_llm.noise.backend import At, Deferred, settled
from es_llm.noise.checks import dtype_name, finite_scale, require_pair, require_tensor

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@final
class CpuBackend:
    """`es_llm.noise.backend.NoiseBackend` for the CPU.

    Raises (all methods):
        KernelError: see `es_llm.noise.checks`.
    """

    def settle(self, results: Sequence[T | Deferred[T]]) -> list[T]:
        """The results, unchanged: none is deferred here."""
        return settled(results)

    def fill(self, out: torch.Tensor, noise: _core.Noise, at: _core.Slice, kind: str = "dense") -> None:
        """out = noise."""
        require_tensor(out, "out", "cpu", at)
        _core.fill(as_array(out), noise, at, kind)

    def perturb(self, live: torch.Tensor, master: torch.Tensor, noise: _core.Noise, scale: float, at: At) -> int:
        """live = round(master + scale * noise)."""
        require_pair(live, master, "cpu", "cpu", at)
        scale = finite_scale(scale)
        return _core.perturb(as_array(live), as_array(master), noise, scale, at, dtype=dtype_name(live.dtype))

    def round(self, live: torch.Tensor, master: torch.Tensor) -> int:
        """live = round(master), to nearest even."""
        require_pair(live, master, "cpu", "cpu")
        return _core.round(as_array(live), as_array(master), dtype=dtype_name(live.dtype))

    def accumulate(
        self, master: torch.Tensor, terms: _core.Terms, at: At, live_dtype: torch.dtype
    ) -> _core.UpdateReport:
        """master += sum over the terms, in order, of coefficient * noise(pair)."""
        require_tensor(master, "master", "cpu", at)
        return _core.accumulate(as_array(master), terms, at, dtype=dtype_name(live_dtype))

    def digest(self, master: torch.Tensor, at: _core.Slice) -> int:
        """Order-free 64-bit digest of the bits."""
        require_tensor(master, "master", "cpu", at)
        return _core.digest(as_array(master), at)


def as_array(tensor: torch.Tensor) -> NDArray[Any]:
    """A numpy array over the same memory; 16-bit types as int16, which numpy can hold, viewed as uint16."""
    plain = tensor.detach()
    if plain.element_size() != 2:
        return plain.numpy()
    halves: NDArray[Any] = plain.view(sys.modules["torch"].int16).numpy()
    return halves.view("uint16")
