"""Other weights for a forward pass, made one at a time: the same model in float32, or perturbed.

A copy of all weights may not fit beside the model. So a weight is replaced where it is used, in any of torch's
functions, and the replacement lives until the next weight is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeAlias, final

import torch

Replace: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""A weight -> the one to compute with: float32, of the same shape."""

_VALUES: Final = frozenset({"data", "T", "mT", "H", "mH", "real"})
"""Attributes of a tensor that are tensors with its values."""


@contextmanager
def replaced(model: torch.nn.Module, replace: Replace) -> Iterator[None]:
    """Let the model compute with other weights, and with buffers in float32, while the block runs."""
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    own = [buffer.data for buffer in buffers]
    weights = {id(weight): weight for weight in model.parameters() if weight.is_floating_point()}
    try:
        for buffer in buffers:
            buffer.data = buffer.data.float()
        with _Replaced(weights, replace):
            yield
    finally:
        for buffer, data in zip(buffers, own, strict=True):
            buffer.data = data


def in_float32(model: torch.nn.Module) -> Any:
    """A context in which the model computes in float32."""
    return replaced(model, lambda weight: weight.detach().float())


@final
class _Replaced(torch.overrides.TorchFunctionMode):
    """Calls torch's functions with other tensors in place of these weights, which are given by their `id`."""

    def __init__(self, weights: Mapping[int, torch.Tensor], replace: Replace) -> None:
        super().__init__()
        self._weights, self._replace = weights, replace
        self._last: tuple[int, torch.Tensor] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") == "__get__" and id(args[0]) in self._weights:
            name = func.__self__.__name__
            if name == "dtype":
                return torch.float32
            if name not in _VALUES:  # such as the shape: no need to make a tensor
                return func(*args)
        named = {key: self._used(value) for key, value in (kwargs or {}).items()}
        return func(*self._used(tuple(args)), **named)

    def _used(self, value: Any) -> Any:
        if type(value) in (tuple, list):
            return type(value)(self._used(each) for each in value)
        key = id(value)
        if key not in self._weights:
            return value
        if self._last is None or self._last[0] != key:
            self._last = None  # free its memory first
            self._last = key, self._replace(value)
        return self._last[1]
