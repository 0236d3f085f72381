"""A module's own parameters as live weights: checks, casts, and access to their memory."""

from __future__ import annotations

import itertools
from typing import Final, final

import torch

from es_llm import _core
from es_llm.errors import ModelError
from es_llm.model.declared import declared_types

DTYPES: Final[dict[str, torch.dtype]] = {name: getattr(torch, name) for name in _core.DTYPES}
"""Name of each live type, and the type."""


@final
class Live:
    """A tensor of live weights, and the name of its parameter. Each use looks the memory up again, to detect a module
    that was moved or cast."""

    def __init__(self, name: str, weight: torch.Tensor) -> None:
        self.name = name
        self._weight = weight
        self._type = weight.dtype
        self._device = weight.device

    @property
    def dtype(self) -> str:
        """Name of the type, as in `DTYPES`."""
        return str(self._type).removeprefix("torch.")

    def tensor(self) -> torch.Tensor:
        """The parameter's memory, without autograd.

        Raises:
            ModelError: the module was moved or cast after `Weights` was made.
        """
        tensor = self._weight.detach()
        if tensor.dtype != self._type or tensor.device != self._device or not tensor.is_contiguous():
            raise ModelError(
                f"`{self.name}` is now {tensor.dtype} on {tensor.device}, expected {self._type} on {self._device}: "
                "the module must not be moved or cast while it is trained"
            )
        return tensor

    def require_finite(self) -> None:
        """Refuse NaN and infinities.

        Raises:
            ModelError: names the parameter and the count.
        """
        _require_finite(self.name, self.tensor())


def check_parameters(module: torch.nn.Module, dtype: str | None) -> None:
    """Refuse parameters that the kernels can't use; `dtype` as for `Weights`.

    Raises:
        ModelError: a parameter is neither on the CPU nor on a CUDA device, is on another device than the first one, is
            not contiguous or not finite, has a type that can't be a live type, or shares memory with another one.
    """
    first = next((weight.device for weight in module.parameters()), None)
    for name, weight in module.named_parameters():
        if weight.device.type not in ("cpu", "cuda"):
            raise ModelError(f"`{name}` is on {weight.device}, expected cpu or cuda: no kernels work there")
        if weight.device != first:
            raise ModelError(f"`{name}` is on {weight.device}, others are on {first}; expected one device for all")
        if not weight.is_floating_point():
            continue
        if dtype is None and weight.requires_grad and weight.dtype not in DTYPES.values():
            raise ModelError(f"`{name}` has type {weight.dtype}, expected one of {', '.join(DTYPES)}")
        if not weight.is_contiguous():
            raise ModelError(f"`{name}` is not contiguous: strides {weight.stride()}, shape {list(weight.shape)}")
        _require_finite(name, weight.detach())
    _require_apart(module)


def cast_parameters(module: torch.nn.Module, dtype: str | None, device: torch.device) -> None:
    """Cast parameters and buffers, in the module itself, to the types of a model that is loaded in `dtype`, and move
    the module to `device`. With None, all types stay.

    Tensors that the class keeps in float32 stay float32; see `declared_types`. Tied weights are one Parameter object,
    so they stay tied.
    """
    if dtype is not None:
        types = declared_types(module, DTYPES[dtype])
        for name, weight in module.named_parameters():
            if weight.is_floating_point():
                weight.data = weight.data.to(device, types[name])
        for prefix, owner in module.named_modules():
            for own, buffer in owner.named_buffers(prefix, recurse=False):
                if buffer.is_floating_point() and buffer.dtype != types[own]:
                    owner._buffers[own.rpartition(".")[2]] = buffer.to(device, types[own])
    module.to(device)


def _require_finite(name: str, tensor: torch.Tensor) -> None:
    if tensor.is_floating_point():
        bad = tensor.numel() - int(torch.isfinite(tensor).sum())
        if bad:
            raise ModelError(
                f"`{name}` holds {bad} NaN or infinite values of {tensor.numel()} as {tensor.dtype}, expected none"
            )


def _require_apart(module: torch.nn.Module) -> None:
    """Refuse two parameters whose memory overlaps. One Parameter under two names is a tied weight and is allowed."""
    spans = sorted(
        (weight.data_ptr(), weight.data_ptr() + weight.numel() * weight.element_size(), name)
        for name, weight in module.named_parameters()
        if weight.numel()
    )
    for (_, end, name), (start, _, other) in itertools.pairwise(spans):
        if start < end:
            raise ModelError(
                f"`{name}` and `{other}` share memory but are two parameters; tie them by assigning one "
                "Parameter to both, or copy one"
            )
