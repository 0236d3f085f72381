"""Checks of tensors and scales, the same on every backend and made before anything is written. Loads no torch."""

from __future__ import annotations

import itertools
import math
import sys
from functools import lru_cache
from numbers import Real
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from es_llm._core import DTYPES, LowRank
from es_llm.errors import KernelError

if TYPE_CHECKING:
    import torch

    from es_llm.noise.backend import At


_OVERFLOW: Final = (2 - 2.0**-24) * 2.0**127
"""The smallest number that rounds to infinity in float32."""


def finite_scale(scale: Any) -> float:
    """The scale, rounded to float32.

    Raises:
        KernelError: no number, NaN, or infinite in float32.
    """
    try:
        value = float(scale) if isinstance(scale, Real) else math.nan
    except OverflowError:  # an integer beyond float64
        value = math.inf
    if not abs(value) < _OVERFLOW:
        raise KernelError(f"`scale` must be a number that is finite in float32, got {scale!r}")
    return float(np.float32(value))


@lru_cache
def dtype_name(dtype: torch.dtype | str) -> str:
    """ "float32", "bfloat16" or "float16", from a torch type or its name.

    Raises:
        KernelError: any other type.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise KernelError(f"live weights must be {', '.join(DTYPES)}, got {name}")
    return name


def require_tensor(tensor: Any, name: str, device: Any, at: At | None = None, *, live: bool = False) -> None:
    """Refuse anything but a contiguous tensor on the device, float32 or, with `live`, of a live type, of the size of
    its slice.

    Raises:
        KernelError: names the tensor and the difference.
    """
    loaded: Any = sys.modules.get("torch")  # a tensor can't exist before torch is loaded
    if loaded is None or not isinstance(tensor, loaded.Tensor):
        raise KernelError(f"`{name}` must be a torch tensor, got {type(tensor).__name__}")
    if tensor.device != device and str(tensor.device) != str(device):
        raise KernelError(f"`{name}` must be on {device}, got {tensor.device}")
    if live:
        dtype_name(tensor.dtype)
    elif tensor.dtype != loaded.float32:
        raise KernelError(f"`{name}` must be float32, got {tensor.dtype}")
    if not tensor.is_contiguous():
        raise KernelError(f"`{name}` must be contiguous, got strides {tensor.stride()} for {tuple(tensor.shape)}")
    if tensor.is_neg():
        raise KernelError(f"`{name}` must hold its own values, got a view of negated ones (call resolve_neg())")
    if isinstance(at, LowRank) and (math.prod(tensor.shape[:-1]), *tensor.shape[-1:]) != at.shape:
        raise KernelError(f"`{name}` must have the shape {at.shape} of its slice, got {tuple(tensor.shape)}")
    if at is not None and tensor.numel() != at.size:
        raise KernelError(f"`{name}` must have the {at.size} values of its slice, got {tensor.numel()}")


def require_pair(live: Any, master: Any, live_device: Any, master_device: Any, at: At | None = None) -> None:
    """Refuse live and master weights that `require_tensor` refuses, differ in length, or share memory.

    Raises:
        KernelError: names the tensor and the difference.
    """
    require_tensor(live, "live", live_device, at, live=True)
    require_tensor(master, "master", master_device, at)
    if live.numel() != master.numel():
        raise KernelError(
            f"`live` and `master` must have the same number of elements, got {live.numel()} and {master.numel()}"
        )
    spans = sorted((x.data_ptr(), x.data_ptr() + x.numel() * x.element_size()) for x in (live, master) if x.numel())
    if any(start < end for (_, end), (start, _) in itertools.pairwise(spans)):
        raise KernelError("`live` and `master` must not share memory, expected two tensors")
