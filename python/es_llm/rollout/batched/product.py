"""The product of a few rows with weights in host memory.

For many rows torch's libraries arrange the weights first, and multiply fast. For the rows of one step of a batch this
takes as long as the product. The kernel reads the weights as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import torch
from torch import nn

from es_llm import _core
from es_llm.noise.cpu import as_array

Forward: TypeAlias = Callable[..., Any]

FEW: Final = frozenset((*range(8, 37), *range(61, 65)))
"""Numbers of rows for which the kernel is faster. Beyond 36 it is so only if four registers are full, or nearly."""
WORTH: Final = 100_000
"""Weights of a layer from which the kernel is faster: a call of it takes some microseconds more."""


def with_few_rows(module: nn.Linear, forward: Forward) -> Forward:
    """The forward pass of a linear layer, by the kernel if there are few rows and all is float32 in host memory."""
    if getattr(forward, "__func__", None) is not nn.Linear.forward or module.weight.numel() < WORTH:
        return forward  # not this class's own, or a small layer

    def run(x: torch.Tensor) -> torch.Tensor:
        weight, bias = module.weight, module.bias
        if x.numel() // x.shape[-1] not in FEW or not (_fits(x) and _fits(weight) and weight.is_contiguous()):
            y: torch.Tensor = forward(x)
            return y
        y = x.new_empty(*x.shape[:-1], len(weight))
        _core.product(as_array(y), as_array(x.contiguous()), as_array(weight.detach()))
        return y if bias is None else y.add_(bias)

    return run


def _fits(tensor: torch.Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu"
