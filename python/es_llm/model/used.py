"""Finds the parameters that a computation reads. It watches every operation of torch, so it also finds weights that are
read without a call of their module."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_NUMBER: Final = re.compile(r"\d+")


class Used:
    """Records which parameters of a module are read inside `watch`."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._storages: set[int] = set()
        self._called: set[int] = set()

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Record all operations and all calls of modules until the block ends."""
        hooks = [
            module.register_forward_pre_hook(lambda module, _: self._called.add(id(module)))
            for module in self._module.modules()
        ]
        try:
            with _Watch(self._storages):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def unused(self) -> frozenset[str]:
        """Names of the parameters that no operation read. An expert that a router didn't select counts as used if
        another expert of its list was used.

        On a GPU, torch doesn't see what a kernel reads. So there, all of a module's own parameters count as used if the
        module was called or one of them was read.
        """
        seen = {name for name, weight in self._module.named_parameters() if _storage(weight) in self._storages}
        for prefix, module in self._module.named_modules():
            own = {f"{prefix}.{name}".lstrip("."): weight for name, weight in module.named_parameters(recurse=False)}
            gpu = any(weight.device.type != "cpu" for weight in own.values())
            if gpu and (id(module) in self._called or not seen.isdisjoint(own)):
                seen |= own.keys()
        seen |= self._experts(seen)
        return frozenset(name for name, _ in self._module.named_parameters() if name not in seen)

    def _experts(self, seen: Collection[str]) -> set[str]:
        """Parameters of unused modules in a list that count as used, because a module of the same kind in the list used
        its parameters of the same names."""
        names = [name for name, _ in self._module.named_parameters()]
        found: set[str] = set()
        for prefix, container in self._module.named_modules():
            if not isinstance(container, torch.nn.ModuleList | torch.nn.ModuleDict):
                continue
            start = f"{prefix}." if prefix else ""
            children = dict(container.named_children())
            read = {key: {n for n in seen if n.startswith(f"{start}{key}.")} for key in children}
            for key, child in children.items():
                if read[key] or id(child) in self._called:
                    continue
                for other, names_of in read.items():
                    if _alike(key, child, other, children[other]):
                        moved = {f"{start}{key}.{name.removeprefix(f'{start}{other}.')}" for name in names_of}
                        found |= moved.intersection(names)
        return found


def groups(module: torch.nn.Module, names: Collection[str]) -> list[str]:
    """The names as a short list of patterns, for a message. A module whose parameters are all named becomes one
    pattern."""
    left = set(names)
    found: list[str] = []
    for prefix, part in module.named_modules():
        own = {f"{prefix}.{name}".lstrip(".") for name, _ in part.named_parameters()}
        if prefix and own and own <= left:
            found.append(f"{prefix}.*")
            left -= own
    return found + sorted(left)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, storages: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages = storages

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor):
                self._storages.add(_storage(leaf))
        return func(*args, **(kwargs or {}))


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _alike(key: str, child: torch.nn.Module, other: str, sibling: torch.nn.Module) -> bool:
    return type(child) is type(sibling) and _NUMBER.sub("", key) == _NUMBER.sub("", other)
