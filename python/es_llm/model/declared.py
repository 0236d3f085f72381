"""What a model's class declares about its tensors: their types in a loaded model, and which are never trained.

`from_pretrained(dtype=...)` of transformers doesn't give every tensor the requested type. Classes keep some weights in
float32 (`_keep_in_fp32_modules`, `_keep_in_fp32_modules_strict`), some tensors have a type of their own, and only some
buffers follow the requested type. So the types are read from a copy of the module without values, built as the loader
builds it.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def declared_types(module: torch.nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Name of each floating-point parameter or buffer -> its type in a model that is loaded in `dtype`.

    In a module that isn't of transformers, buffers keep their types, and all parameters get `dtype`.
    """
    bare = _bare(module, dtype)
    types = dict.fromkeys(_types(module.named_parameters(remove_duplicate=False)), dtype)
    types |= _types(module.named_buffers(remove_duplicate=False))
    if bare is not None:
        declared = _types(bare.named_parameters(remove_duplicate=False))
        declared |= _types(bare.named_buffers(remove_duplicate=False))
        types |= {name: kind for name, kind in declared.items() if name in types}
    kept = _kept(module if bare is None else bare, dtype)
    if kept is None:
        return types
    stored = module.state_dict(keep_vars=True).keys()
    return {name: torch.float32 if name in stored and kept.search(name) else kind for name, kind in types.items()}


def without_gradient(module: torch.nn.Module) -> frozenset[str]:
    """Names of parameters that the module's class creates with `requires_grad=False`, such as the correction bias of a
    router. transformers' loader resets this flag, so the loaded module does not show it."""
    bare = _bare(module, torch.float32)
    if bare is None:
        return frozenset()
    names = {name for name, weight in bare.named_parameters(remove_duplicate=False) if not weight.requires_grad}
    trained = {id(weight) for name, weight in module.named_parameters(remove_duplicate=False) if name not in names}
    own = dict(module.named_parameters(remove_duplicate=False))
    return frozenset(name for name in names if name in own and id(own[name]) not in trained)


def _types(named: Iterator[tuple[str, torch.Tensor]]) -> dict[str, torch.dtype]:
    return {name: tensor.dtype for name, tensor in named if tensor.is_floating_point()}


def _kept(module: Any, dtype: torch.dtype) -> re.Pattern[str] | None:
    """A pattern for the names of weights that stay in float32, as the loader matches them; None if all are cast."""
    patterns: list[str] = []
    if dtype == torch.float16:
        patterns += getattr(module, "_keep_in_fp32_modules", None) or ()
    if dtype in (torch.float16, torch.bfloat16):
        patterns += getattr(module, "_keep_in_fp32_modules_strict", None) or ()
    return re.compile("|".join(pattern.replace("*", ".*") for pattern in sorted(patterns))) if patterns else None


def _bare(module: Any, dtype: torch.dtype) -> Any:
    """A module without values, as the loader of transformers builds it for a type. None if the class isn't of
    transformers, can't be built from its configuration alone, or gives other parameters."""
    transformers = sys.modules.get("transformers")  # a module of its classes has imported it
    if transformers is None or not isinstance(module, transformers.PreTrainedModel):
        return None
    try:
        config = copy.deepcopy(module.config)
        _set_dtype(config, dtype)
        with _default_dtype(dtype), torch.device("meta"):
            bare = type(module)(config)
    except Exception:  # a class from a user's file may raise any error
        return None
    return bare if _names(bare) == _names(module) else None


def _set_dtype(config: Any, dtype: torch.dtype) -> None:
    """Set the type in a configuration and in those of its parts, whose modules are built in the type that they name."""
    config.dtype = dtype
    for name in getattr(config, "sub_configs", ()):
        if (part := getattr(config, name, None)) is not None:
            _set_dtype(part, dtype)


def _names(module: torch.nn.Module) -> set[str]:
    return {name for name, _ in module.named_parameters(remove_duplicate=False)}


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    saved = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(saved)
