"""What the kernels refuse, in the same words on every backend and before anything is written. Loads no torch."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import numpy as np
from numpy.typing import NDArray

from es_llm._core import MAX_RANK
from es_llm.errors import KernelError, NoiseAddressError
from es_llm.noise.address import whole
from es_llm.noise.shard import shard_of

if TYPE_CHECKING:
    import torch

Pairs: TypeAlias = Sequence[int] | NDArray[np.uint32]
"""As kernels take them: N numbers in [0, 2**32)."""

_NAMES: Final = ("float32", "bfloat16", "float16")
_PAIRS: Final = 1 << 32


@final
@dataclass(frozen=True)
class Members:
    """What an update adds up: N pairs, uint32, and as many coefficients, float32."""

    pairs: NDArray[np.uint32]
    coefficients: NDArray[np.float32]


def members_of(pairs: Any, coefficients: Any) -> Members:
    """The members; an array of uint32 is taken as it is, any other sequence of integers word by word.

    Raises:
        KernelError: pairs that are no sequence, coefficients that are no contiguous float32 array (N,), or another
            number of them.
        NoiseAddressError: a pair that is no integer, or out of range.
    """
    if not isinstance(coefficients, np.ndarray) or coefficients.dtype != np.float32:
        got = f"one of {coefficients.dtype}" if isinstance(coefficients, np.ndarray) else repr(coefficients)
        raise KernelError(f"`coefficients` must be a numpy array of float32, got {got}")
    if coefficients.ndim != 1:
        raise KernelError(f"`coefficients` must have one dimension, got shape {coefficients.shape}")
    if not coefficients.flags.c_contiguous:
        raise KernelError(
            f"`coefficients` must be contiguous, got strides {coefficients.strides} for {coefficients.shape}"
        )
    words = _words(pairs)
    if len(words) != len(coefficients):
        raise KernelError(
            f"`pairs` and `coefficients` must have the same length, got {len(words)} and {len(coefficients)}"
        )
    return Members(words, coefficients)


def finite_scale(scale: Any) -> float:
    """The scale, rounded to float32.

    Raises:
        KernelError: no number, NaN, or one that is infinite in float32.
    """
    try:
        value = float(scale) if isinstance(scale, Real) else math.nan
    except OverflowError:  # an integer beyond float64
        value = math.inf
    with np.errstate(over="ignore"):
        rounded = float(np.float32(value))
    if not math.isfinite(rounded):
        raise KernelError(f"`scale` must be a number that is finite in float32, got {scale!r}")
    return rounded


def dtype_name(dtype: torch.dtype | np.dtype[Any] | str) -> str:
    """ "float32", "bfloat16" or "float16", of a torch or numpy type or its name.

    Raises:
        KernelError: any other type.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in _NAMES:
        raise KernelError(f"live weights must be float32, bfloat16 or float16, got {name}")
    return name


def require_block(master: Any, *, rank: Any, row: Any, column: Any) -> None:
    """Refuse what isn't a matrix, a rank out of range, and factors beyond the last element.

    Raises:
        KernelError, NoiseAddressError: says what differs.
    """
    if master.ndim != 2:
        raise KernelError(f"`master` must be a matrix for low-rank noise, got shape {tuple(master.shape)}")
    if not hasattr(rank, "__index__") or not 1 <= whole(rank, "rank") <= MAX_RANK:
        raise KernelError(f"`rank` must be in [1, {MAX_RANK}], got {rank}")
    for name, first, size in (("row", row, master.shape[0]), ("column", column, master.shape[1])):
        shard_of(size * int(rank), element=whole(first, name) * int(rank), columns=None, stride=None)


def require_one_shape(live: Any, master: Any) -> None:
    """Refuse a live matrix of another shape than its master's: low-rank noise has rows and columns.

    Raises:
        KernelError: names both shapes.
    """
    if tuple(live.shape) != tuple(master.shape):
        raise KernelError(
            f"`live` and `master` must have one shape for low-rank noise, got {tuple(live.shape)} and "
            f"{tuple(master.shape)}"
        )


def require_tensor(tensor: Any, name: str, device: torch.device | str, *, live: bool = False) -> torch.Tensor:
    """A tensor that the kernels can take: contiguous, on the device, float32 or, for `live`, a live type.

    Raises:
        KernelError: says what differs.
    """
    loaded: Any = sys.modules.get("torch")  # a tensor can't exist before torch is loaded
    if loaded is None or not isinstance(tensor, loaded.Tensor):
        raise KernelError(f"`{name}` must be a torch tensor, got {type(tensor).__name__}")
    if str(tensor.device) != str(device):
        raise KernelError(f"`{name}` must be on {device}, got {tensor.device}")
    if live:
        dtype_name(tensor.dtype)
    elif tensor.dtype != loaded.float32:
        raise KernelError(f"`{name}` must be float32, got {tensor.dtype}")
    if not tensor.is_contiguous():
        raise KernelError(f"`{name}` must be contiguous, got strides {tensor.stride()} for {tuple(tensor.shape)}")
    if tensor.is_neg():
        raise KernelError(f"`{name}` must hold its own values, got a view of negated ones (call resolve_neg())")
    found: torch.Tensor = tensor
    return found


def require_pair(live: Any, master: Any, live_device: torch.device | str, master_device: torch.device | str) -> None:
    """Refuse what `require_tensor` refuses, different lengths, and memory that both have.

    Raises:
        KernelError: says what differs.
    """
    require_tensor(live, "live", live_device, live=True)
    require_tensor(master, "master", master_device)
    if live.numel() != master.numel():
        raise KernelError(
            f"`live` and `master` must have the same number of elements, got {live.numel()} and {master.numel()}"
        )
    spans = sorted((x.data_ptr(), x.data_ptr() + x.numel() * x.element_size()) for x in (live, master) if x.numel())
    if any(start < end for (_, end), (start, _) in itertools.pairwise(spans)):
        raise KernelError("`live` and `master` must not share memory, expected two tensors")


def _words(pairs: Any) -> NDArray[np.uint32]:
    if isinstance(pairs, np.ndarray) and pairs.dtype == np.uint32 and pairs.ndim == 1:
        return np.ascontiguousarray(pairs)
    many = pairs.ndim == 1 if isinstance(pairs, np.ndarray) else isinstance(pairs, Sequence)
    if not many or isinstance(pairs, str):
        raise KernelError(f"`pairs` must be a sequence of integers, got {pairs!r}")
    words = [whole(pair, "pairs") for pair in pairs]
    for word in words:
        if not 0 <= word < _PAIRS:
            raise NoiseAddressError(f"`pairs` must be in [0, {_PAIRS}), got {word}")
    return np.array(words, np.uint32)
