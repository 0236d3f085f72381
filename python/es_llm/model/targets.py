"""Targets: the tensors of an engine that live weights are written into."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch

from es_llm.errors import ModelError
from es_llm.model.live import Live
from es_llm.model.table import ParameterTable
from es_llm.noise.backend import At


class Target(NamedTuple):
    """A tensor of an engine, and the rows of a parameter that it holds.

    name: the parameter's name in the module, as in `named_parameters`.
    rows: indices of the parameter's first dimension; `slice(None)` is the whole parameter.
    tensor: contiguous, of the shape of these rows. `Weights` may cast and move a `Parameter`; it uses any other tensor
        unchanged, such as a view of a fused tensor.
    """

    name: str
    rows: slice
    tensor: torch.Tensor


def own_targets(module: torch.nn.Module, without: Collection[str] = ()) -> list[Target]:
    """One target for each of the module's own parameters, in order.

    Args:
        without: names of parameters to leave out, such as parameters that the engine doesn't read.
    """
    named = module.named_parameters()
    return [Target(name, slice(None), weight) for name, weight in named if name not in without]


class LivePart(NamedTuple):
    """A live tensor, the part of a master that it is written from, and the address and kind of that part's noise."""

    live: Live
    master: torch.Tensor
    at: At


def live_parts(table: ParameterTable, targets: Sequence[Target], masters: Sequence[torch.Tensor]) -> list[LivePart]:
    """The targets with their parts of the masters, in the order of the table.

    Raises:
        ModelError: a target has another shape than the rows that it holds, or a row of a parameter has no target or
            several targets; names the parameter.
    """
    by_name: dict[str, list[Target]] = defaultdict(list)
    for target in targets:
        by_name[target.name].append(target)
    parts = []
    for parameter, master in zip(table.parameters, masters, strict=True):
        whole = master.reshape(1) if not parameter.shape else master
        end = 0
        own = [(target, *target.rows.indices(len(whole))[:2]) for target in by_name[parameter.name]]
        for target, start, stop in sorted(own, key=lambda one: one[1:]):
            part = master if not parameter.shape else master[start:stop]
            if start != end or part.shape != target.tensor.shape:
                raise ModelError(
                    f"`{parameter.name}` of shape {list(parameter.shape)}: the engine's target for the rows [{start}, "
                    f"{stop}) has shape {list(target.tensor.shape)}; expected each row in one target, and "
                    f"{list(part.shape)}"
                )
            at = parameter.rows(start, stop) if parameter.shape else parameter.perturbed
            parts.append(LivePart(Live(parameter.name, target.tensor), part, at))
            end = stop
        if end != len(whole):
            raise ModelError(f"`{parameter.name}`: the engine has targets for {end} of {len(whole)} rows, expected all")
    return parts
