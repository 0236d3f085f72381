"""The Rust kernels on numpy arrays and on torch tensors in host memory, without a copy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from es_llm import _core
from es_llm.errors import KernelError
from es_llm.noise.address import NoiseAddress, kind_number
from es_llm.noise.checks import (
    Pairs,
    dtype_name,
    finite_scale,
    members_of,
    require_block,
    require_one_shape,
    require_pair,
    require_tensor,
)
from es_llm.noise.pending import Pending, settled
from es_llm.noise.shard import shard_of

if TYPE_CHECKING:
    import torch

Tensor: TypeAlias = "torch.Tensor | NDArray[Any]"
T = TypeVar("T")


@final
class CpuBackend:
    """`es_llm.noise.backend.NoiseBackend` for the CPU; numpy arrays (float32, float16) are welcome too.

    Raises (all methods):
        KernelError: not contiguous, not on the CPU, read-only, overlapping, of another type or length.
        NoiseAddressError: an address out of range.
    """

    def settle(self, results: Sequence[T | Pending[T]]) -> list[T]:
        """The results as they are: nothing is pending here."""
        return settled(results)

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
        address = NoiseAddress(run_seed, iteration, pair, tensor, element)
        values = _master(out, "out")
        shard_of(values.size, element=element, columns=None, stride=None)
        kind_number(kind)
        _core.fill(values, kind=kind, **vars(address))

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
        address = NoiseAddress(run_seed, iteration, pair, tensor, element)
        memory, values = _pair(live, master)
        scale = finite_scale(scale)
        shard_of(values.size, element=element, columns=columns, stride=stride)
        return _core.perturb_into(
            memory,
            values,
            dtype=dtype_name(live.dtype),
            scale=scale,
            columns=columns,
            stride=stride,
            **vars(address),
        )

    def round_into(self, live: Tensor, master: Tensor) -> int:
        """live = round(master), to nearest even."""
        return _core.round_into(*_pair(live, master), dtype=dtype_name(live.dtype))

    def accumulate(
        self,
        master: Tensor,
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
    ) -> _core.UpdateReport:
        """master += sum over the pairs, in order, of coefficient * noise(pair)."""
        address = NoiseAddress(run_seed, iteration, 0, tensor, element)
        values = _master(master, "master")
        members = members_of(pairs, coefficients)
        shard_of(values.size, element=element, columns=columns, stride=stride)
        return _core.accumulate(
            values,
            dtype=dtype_name(live_dtype),
            pairs=members.pairs.tolist(),
            coefficients=members.coefficients,
            run_seed=address.run_seed,
            iteration=address.iteration,
            tensor=address.tensor,
            element=address.element,
            columns=columns,
            stride=stride,
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
        address = NoiseAddress(0, 0, 0, tensor, element)
        values = _master(master, "master")
        shard_of(values.size, element=element, columns=columns, stride=stride)
        return _core.digest(values, tensor=address.tensor, element=address.element, columns=columns, stride=stride)

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
        address = NoiseAddress(run_seed, iteration, pair, tensor)
        memory, values = _pair(live, master)
        require_block(master, rank=rank, row=row, column=column)
        require_one_shape(live, master)
        return _core.perturb_low_rank_into(
            memory,
            values.reshape(tuple(master.shape)),
            dtype=dtype_name(live.dtype),
            rank=rank,
            scale=finite_scale(scale),
            run_seed=address.run_seed,
            iteration=address.iteration,
            pair=address.pair,
            tensor=address.tensor,
            row=row,
            column=column,
        )

    def accumulate_low_rank(
        self,
        master: Tensor,
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
    ) -> _core.UpdateReport:
        """master += sum over the pairs, in order, of coefficient / sqrt(rank) * A B^T."""
        address = NoiseAddress(run_seed, iteration, 0, tensor)
        values = _master(master, "master")
        require_block(master, rank=rank, row=row, column=column)
        members = members_of(pairs, coefficients)
        return _core.accumulate_low_rank(
            values.reshape(tuple(master.shape)),
            dtype=dtype_name(live_dtype),
            rank=rank,
            pairs=members.pairs.tolist(),
            coefficients=members.coefficients,
            run_seed=address.run_seed,
            iteration=address.iteration,
            tensor=address.tensor,
            row=row,
            column=column,
        )


def _pair(live: Tensor, master: Tensor) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Both as `_flat`; the Rust kernels compare the lengths and the memory of numpy arrays."""
    if isinstance(live, np.ndarray) or isinstance(master, np.ndarray):
        _require(live, "live", live=True)
        _require(master, "master")
    else:
        require_pair(live, master, "cpu", "cpu")
    return _flat(live), _flat(master)


def _master(tensor: Tensor, name: str) -> NDArray[np.float32]:
    _require(tensor, name)
    return _flat(tensor)


def _require(tensor: Tensor, name: str, *, live: bool = False) -> None:
    """`require_tensor`, of numpy arrays too."""
    if not isinstance(tensor, np.ndarray):
        require_tensor(tensor, name, "cpu", live=live)
        return
    if live:
        dtype_name(tensor.dtype)
    elif tensor.dtype != np.float32:
        raise KernelError(f"`{name}` must be float32, got {tensor.dtype}")
    if not tensor.flags.c_contiguous:
        raise KernelError(f"`{name}` must be contiguous, got strides {tensor.strides} for {tensor.shape}")


def _flat(tensor: Tensor) -> NDArray[Any]:
    """All elements as one numpy dimension over the same memory; 16-bit types as uint16."""
    if isinstance(tensor, np.ndarray):
        array: NDArray[Any] = tensor
    else:
        plain, int16 = tensor.detach(), sys.modules["torch"].int16
        array = (plain.view(int16) if plain.element_size() == 2 else plain).numpy()
    flat = array.reshape(-1)
    return flat.view(np.uint16) if flat.dtype.itemsize == 2 else flat
