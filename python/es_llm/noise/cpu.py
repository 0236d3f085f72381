"""The Rust kernels on numpy arrays and on torch tensors in host memory, without a copy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from es_llm import _core
from es_llm.errors import KernelError
from es_llm.noise.backend import require_one_shape

if TYPE_CHECKING:
    import torch

Tensor: TypeAlias = "torch.Tensor | NDArray[Any]"

_NAMES: Final = ("float32", "bfloat16", "float16")


@final
class CpuBackend:
    """`es_llm.noise.backend.NoiseBackend` for the CPU; numpy arrays (float32, float16) are welcome too.

    Raises (all methods):
        KernelError: not contiguous, not on the CPU, read-only, overlapping, of another type or length.
        NoiseAddressError: an address out of range.
    """

    def fill(
        self,
        out: Tensor,
        *,
        run_seed: int,
        iteration: int,
        pair: int,
        tensor: int,
        element: int = 0,
        kind: str = "dense",
    ) -> None:
        """out = noise."""
        words = {"run_seed": run_seed, "iteration": iteration, "pair": pair, "tensor": tensor, "element": element}
        _core.fill(_master(out, "out"), kind=kind, **words)

    def perturb_into(
        self,
        live: Tensor,
        master: Tensor,
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
        """live = round(fma(scale, noise, master))."""
        return _core.perturb_into(
            _flat(live, "live"),
            _master(master, "master"),
            dtype=dtype_name(live.dtype),
            scale=scale,
            run_seed=run_seed,
            iteration=iteration,
            pair=pair,
            tensor=tensor,
            element=element,
            columns=columns,
            stride=stride,
        )

    def perturb_low_rank_into(
        self,
        live: Tensor,
        master: Tensor,
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
        """live = round(master + scale / sqrt(rank) * A B^T)."""
        memory, matrix = _flat(live, "live"), _matrix(master, "master")
        require_one_shape(live, master)
        return _core.perturb_low_rank_into(
            memory,
            matrix,
            dtype=dtype_name(live.dtype),
            rank=rank,
            scale=scale,
            run_seed=run_seed,
            iteration=iteration,
            pair=pair,
            tensor=tensor,
            row=row,
            column=column,
        )

    def round_into(self, live: Tensor, master: Tensor) -> int:
        """live = round(master), to nearest even."""
        return _core.round_into(_flat(live, "live"), _master(master, "master"), dtype=dtype_name(live.dtype))

    def accumulate(
        self,
        master: Tensor,
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
    ) -> _core.UpdateReport:
        """master += sum over the pairs, in order, of coefficient * noise(pair)."""
        return _core.accumulate(
            _master(master, "master"),
            dtype=dtype_name(live_dtype),
            pairs=pairs,
            coefficients=coefficients,
            run_seed=run_seed,
            iteration=iteration,
            tensor=tensor,
            element=element,
            columns=columns,
            stride=stride,
        )

    def accumulate_low_rank(
        self,
        master: Tensor,
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
    ) -> _core.UpdateReport:
        """master += sum over the pairs, in order, of coefficient / sqrt(rank) * A B^T."""
        return _core.accumulate_low_rank(
            _matrix(master, "master"),
            dtype=dtype_name(live_dtype),
            rank=rank,
            pairs=pairs,
            coefficients=coefficients,
            run_seed=run_seed,
            iteration=iteration,
            tensor=tensor,
            row=row,
            column=column,
        )

    def digest(
        self,
        master: Tensor,
        *,
        tensor: int,
        element: int = 0,
        columns: int | None = None,
        stride: int | None = None,
    ) -> int:
        """Order-free 64-bit digest of the bits."""
        return _core.digest(_master(master, "master"), tensor=tensor, element=element, columns=columns, stride=stride)


def dtype_name(dtype: torch.dtype | np.dtype[Any] | str) -> str:
    """ "float32", "bfloat16" or "float16", of a torch or numpy type or its name.

    Raises:
        KernelError: any other type.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in _NAMES:
        raise KernelError(f"live weights must be float32, bfloat16 or float16, got {name}")
    return name


def _master(tensor: Tensor, name: str) -> NDArray[np.float32]:
    _require_array(tensor, name)
    if str(tensor.dtype).removeprefix("torch.") != "float32":
        raise KernelError(f"`{name}` must be float32, got {tensor.dtype}")
    return _flat(tensor, name)


def _matrix(tensor: Tensor, name: str) -> NDArray[np.float32]:
    """As `_master`, in its own two dimensions."""
    _require_array(tensor, name)
    if tensor.ndim != 2:
        raise KernelError(f"`{name}` must be a matrix for low-rank noise, got shape {tuple(tensor.shape)}")
    return _master(tensor, name).reshape(tuple(tensor.shape))


def _flat(tensor: Tensor, name: str) -> NDArray[Any]:
    """All elements as one numpy dimension over the same memory; 16-bit types as uint16."""
    _require_array(tensor, name)
    array = tensor if isinstance(tensor, np.ndarray) else _view(tensor, name)
    if not array.flags.c_contiguous:
        raise KernelError(f"`{name}` must be contiguous, got strides {array.strides} for shape {array.shape}")
    flat = array.reshape(-1)
    return flat.view(np.uint16) if flat.dtype.itemsize == 2 else flat


def _require_array(tensor: Any, name: str) -> None:
    torch: Any = sys.modules.get("torch")  # a tensor can't exist before torch is loaded
    if not isinstance(tensor, np.ndarray) and (torch is None or not isinstance(tensor, torch.Tensor)):
        raise KernelError(f"`{name}` must be a torch tensor or a numpy array, got {type(tensor).__name__}")


def _view(tensor: torch.Tensor, name: str) -> NDArray[Any]:
    import torch

    if tensor.device.type != "cpu":
        raise KernelError(f"`{name}` must be on the CPU, got {tensor.device}")
    if not tensor.is_contiguous():
        raise KernelError(f"`{name}` must be contiguous, got strides {tensor.stride()} for {tuple(tensor.shape)}")
    if tensor.is_neg():
        raise KernelError(f"`{name}` must hold its own values, got a view of negated ones (call resolve_neg())")
    plain = tensor.detach()
    array: NDArray[Any] = (plain.view(torch.int16) if plain.element_size() == 2 else plain).numpy()
    return array
