"""The ordered table of trainable parameters: what a tensor id of a noise address means.

Knows names and shapes only; holds no weights. Two runs with equal tables give every weight the same noise.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch

from es_llm._core import MAX_ELEMENTS, MAX_TENSORS
from es_llm.errors import ModelError
from es_llm.model.declared import without_gradient


@dataclass(frozen=True)
class Parameter:
    """One trainable tensor; `tensor` is its id in noise addresses, `elements` the product of its shape."""

    tensor: int
    name: str
    shape: tuple[int, ...]
    elements: int


@dataclass(frozen=True)
class ParameterTable:
    """Trainable parameters in the order of `module.named_parameters()`; tied weights once, by their first name."""

    parameters: tuple[Parameter, ...]

    @property
    def elements(self) -> int:
        """D, the number of trainable weights."""
        return sum(parameter.elements for parameter in self.parameters)

    @staticmethod
    def from_module(
        module: torch.nn.Module,
        frozen: Sequence[str] = (),
        *,
        unused: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> ParameterTable:
        """The table of a module, without what has `requires_grad=False`, also if its class says so alone, matches a
        pattern of `frozen`, or is named in `unused`.

        A pattern (`fnmatch`, case-sensitive) that matches any name of a tied weight freezes the weight.

        Args:
            unused: names of parameters that no forward pass of the run reads.
            only: names of the parameters of the table, as a journal has them; `unused` and what the class declares
                have no say then.

        Raises:
            ModelError: no trainable parameter, a pattern that matches nothing, a name of `only` that the module
                doesn't have, or more tensors or elements than a noise address can name.
        """
        out = _matches(module, frozen)
        names = {name for name, _ in module.named_parameters()}
        if only is None:
            names -= {*unused, *without_gradient(module)}
        elif unknown := sorted(set(only) - names):
            raise ModelError(f"the model has no parameter {', '.join(f'`{name}`' for name in unknown[:5])}")
        else:
            names &= set(only)
        named = [
            (name, weight)
            for name, weight in module.named_parameters()
            if name in names and weight.requires_grad and id(weight) not in out
        ]
        if not named:
            total = sum(1 for _ in module.parameters())
            raise ModelError(f"the model has no trainable parameter: {total} in all, {len(out)} frozen by name")
        if len(named) > MAX_TENSORS:
            raise ModelError(f"the model has {len(named)} trainable tensors, expected at most {MAX_TENSORS}")
        return ParameterTable(
            tuple(_parameter(tensor, name, tuple(weight.shape)) for tensor, (name, weight) in enumerate(named))
        )

    def to_json(self) -> list[dict[str, Any]]:
        """One `{"name", "shape"}` per tensor, in order, for the journal's header."""
        return [{"name": parameter.name, "shape": list(parameter.shape)} for parameter in self.parameters]

    @staticmethod
    def from_json(entries: Sequence[Mapping[str, Any]]) -> ParameterTable:
        """The table that `to_json` wrote.

        Raises:
            ModelError: an entry without a name and a shape of integers >= 0.
        """
        try:
            return ParameterTable(
                tuple(
                    _parameter(tensor, str(entry["name"]), tuple(int(size) for size in entry["shape"]))
                    for tensor, entry in enumerate(entries)
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"not a parameter table: {error!r}; expected entries with `name`, `shape`") from error

    def difference(self, other: ParameterTable) -> str | None:
        """What differs first between this table and `other`, as text; None when they are equal."""
        for own, their in zip(self.parameters, other.parameters, strict=False):
            if own.name != their.name:
                return f"tensor {own.tensor} is `{own.name}` here and `{their.name}` there"
            if own.shape != their.shape:
                return f"`{own.name}` has shape {list(own.shape)} here and {list(their.shape)} there"
        here, there = len(self.parameters), len(other.parameters)
        if here != there:
            longer = self if here > there else other
            extra = longer.parameters[min(here, there)].name
            return f"{here} tensors here and {there} there; the first that only one has is `{extra}`"
        return None


def _parameter(tensor: int, name: str, shape: tuple[int, ...]) -> Parameter:
    elements = 1
    for size in shape:
        if size < 0:
            raise ValueError(f"`{name}` has shape {list(shape)}")
        elements *= size
    if elements > MAX_ELEMENTS:
        raise ModelError(f"`{name}` has {elements} elements, expected at most {MAX_ELEMENTS}")
    return Parameter(tensor, name, shape, elements)


def _matches(module: torch.nn.Module, patterns: Sequence[str]) -> set[int]:
    """Identities of the weights with a name that a pattern matches."""
    named = list(module.named_parameters(remove_duplicate=False))
    found: set[int] = set()
    for pattern in patterns:
        hits = {id(weight) for name, weight in named if fnmatchcase(name, pattern)}
        if not hits:
            names = [name for name, _ in named]
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise ModelError(
                f"`frozen`: the pattern {pattern!r} matches no parameter; the nearest names are {', '.join(near)}"
            )
        found |= hits
    return found
