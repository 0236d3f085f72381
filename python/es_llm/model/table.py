"""The ordered table of trainable parameters: the tensor id of each in noise addresses, and its perturbation.

Knows names and shapes only and holds no weights. Two runs with equal tables give every weight the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from es_llm._core import MAX_ELEMENTS, MAX_TENSORS, LowRank, Slice
from es_llm.errors import ModelError
from es_llm.model.declared import without_gradient
from es_llm.model.selection import Selection
from es_llm.noise.backend import At
from es_llm.noise.perturbation import NONE, Perturbation, load_perturbation, noise_of


@dataclass(frozen=True)
class Parameter:
    """One trainable tensor.

    Args:
        name: its name in the module.
        shape: shape of the whole tensor.
        whole: the slice of all elements.
        perturbed: the same elements with their kind of noise (see `noise_of`).
    """

    name: str
    shape: tuple[int, ...]
    whole: Slice
    perturbed: At

    @property
    def tensor(self) -> int:
        """The tensor id in noise addresses."""
        return self.whole.tensor

    @property
    def elements(self) -> int:
        """Number of weights."""
        return self.whole.size

    def rows(self, start: int, stop: int) -> At:
        """The rows [start, stop) of the first dimension, with their kind of noise."""
        if isinstance(self.perturbed, LowRank):
            rows = math.prod(self.shape[1:-1])
            block = ((stop - start) * rows, self.shape[-1])
            return LowRank(self.tensor, block, self.perturbed.rank, row=start * rows)
        inner = math.prod(self.shape[1:])
        return Slice(self.tensor, (stop - start) * inner, element=start * inner)

    def to_json(self) -> dict[str, Any]:
        """`name` and `shape`, and for low-rank noise `perturbation` and `rank`. An entry with dense noise is the same
        as in a journal of format 1."""
        entry = {"name": self.name, "shape": list(self.shape)}
        if isinstance(self.perturbed, LowRank):
            return {**entry, "perturbation": "low_rank", "rank": self.perturbed.rank}
        return entry


@dataclass(frozen=True)
class ParameterTable:
    """Trainable parameters in the order of `module.named_parameters()`; a tied weight is listed once,
    by its first name.

    A parameter that isn't in the table has no noise and keeps its values.
    """

    parameters: tuple[Parameter, ...]

    @property
    def elements(self) -> int:
        """D, the number of trainable weights."""
        return sum(parameter.elements for parameter in self.parameters)

    @staticmethod
    def from_module(
        module: torch.nn.Module,
        selection: Selection | None = None,
        *,
        unused: Collection[str] = (),
        perturbation: str = "dense",
        rank: int = 1,
        vectors: str = "full",
        embeddings: str = "low_rank",
    ) -> ParameterTable:
        """The table of a module.

        It leaves out parameters that `selection` doesn't select, that have `requires_grad=False` in the module or in
        the declaration of its class, or that `unused` names.

        Args:
            selection: default: all parameters.
            unused: names of parameters that no forward pass of the run reads.
            perturbation, rank, vectors: the noise of each tensor, see `load_perturbation`. A tensor without noise is
                left out too.
            embeddings: "frozen" leaves out the embedding of tokens, and a head that is tied to it.

        Raises:
            ModelError: there is no trainable parameter, a pattern matches nothing, or there are more tensors or
                elements than noise addresses.
            ConfigError: there is no such perturbation, or it doesn't fit a tensor.
            KernelError: the rank is out of range.
        """
        selected = (selection or Selection()).of(module)
        left_out = {*unused, *without_gradient(module)}
        if embeddings == "frozen":
            left_out |= _embeddings(module)
        choose = load_perturbation(perturbation, rank, vectors=vectors)
        candidates = [
            (name, tuple(weight.shape), choose(name, tuple(weight.shape)))
            for name, weight in module.named_parameters()
            if id(weight) in selected and name not in left_out and weight.requires_grad
        ]
        named = [row for row in candidates if row[2] != NONE]
        if not named:
            total = sum(1 for _ in module.parameters())
            out = total - len(selected)
            raise ModelError(
                f"the model has no trainable parameter: {total} in all, {out} excluded by `trainable` or `frozen`, "
                f"{len(candidates)} by `perturbation`"
            )
        if len(named) > MAX_TENSORS:
            raise ModelError(f"the model has {len(named)} trainable tensors, expected at most {MAX_TENSORS}")
        return ParameterTable(tuple(_parameter(tensor, *row) for tensor, row in enumerate(named)))

    def to_json(self) -> list[dict[str, Any]]:
        """One entry per tensor, in order, for the journal's header."""
        return [parameter.to_json() for parameter in self.parameters]

    @staticmethod
    def from_json(entries: Sequence[Mapping[str, Any]]) -> ParameterTable:
        """The table that `to_json` wrote.

        Raises:
            ModelError: an entry has no name, no shape of integers >= 0, or an unknown perturbation.
        """
        try:
            return ParameterTable(
                tuple(
                    _parameter(
                        tensor,
                        str(entry["name"]),
                        tuple(int(size) for size in entry["shape"]),
                        Perturbation(str(entry.get("perturbation", "dense")), int(entry.get("rank", 1))),
                    )
                    for tensor, entry in enumerate(entries)
                )
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ModelError(f"not a parameter table: {error!r}; expected entries with `name`, `shape`") from error

    def require_in(self, module: torch.nn.Module) -> None:
        """Check that a module has the table's parameters.

        Raises:
            ModelError: a parameter is missing or has another shape; names the first one.
        """
        named = dict(module.named_parameters())
        for parameter in self.parameters:
            if parameter.name not in named:
                raise ModelError(f"the model has no parameter `{parameter.name}`")
            shape = list(named[parameter.name].shape)
            if shape != list(parameter.shape):
                raise ModelError(f"`{parameter.name}` has the shape {shape}, expected {list(parameter.shape)}")


def _embeddings(module: torch.nn.Module) -> set[str]:
    """The name of the weight of the token embedding."""
    weight = getattr(getattr(module, "get_input_embeddings", lambda: None)(), "weight", None)
    return {name for name, own in module.named_parameters() if own is weight}


def _parameter(tensor: int, name: str, shape: tuple[int, ...], perturbation: Perturbation) -> Parameter:
    if any(size < 0 for size in shape):
        raise ValueError(f"`{name}` has shape {list(shape)}")
    elements = math.prod(shape)
    if elements > MAX_ELEMENTS:
        raise ModelError(f"`{name}` has {elements} elements, expected at most {MAX_ELEMENTS}")
    return Parameter(name, shape, Slice(tensor, elements), noise_of(tensor, shape, perturbation))
