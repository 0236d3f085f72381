"""Where an engine keeps the weights that it runs: the tensors that live weights are written into."""

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
    """A tensor of an engine, and which rows of a parameter it holds.

    name: the parameter's name in the module, as in `named_parameters`.
    rows: indices of its first dimension; `slice(None)` is the whole parameter.
    tensor: contiguous, of the shape of these rows. A `Parameter` may be cast and moved by `Weights`; any other tensor
        is used as it is, and may be a view of a fused one.
    """

    name: str
    rows: slice
    tensor: torch.Tensor


def own_targets(module: torch.nn.Module, without: Collection[str] = ()) -> list[Target]:
    """The module's own parameters, each whole, in order.

    Args:
        without: names of parameters to leave out, such as those that the engine doesn't read.
    """
    named = module.named_parameters()
    return [Target(name, slice(None), weight) for name, weight in named if name not in without]


class Placed(NamedTuple):
    """A live tensor beside its part of a master, and the address and kind of the part's noise."""

    live: Live
    master: torch.Tensor
    at: At


def place_targets(table: ParameterTable, targets: Sequence[Target], masters: Sequence[torch.Tensor]) -> list[Placed]:
    """The targets of the table's parameters, in the order of the table.

    Raises:
        ModelError: a target has another shape than the rows that it holds, or a row of a parameter has no target or
            several ones; names the parameter.
    """
    by_name: dict[str, list[Target]] = defaultdict(list)
    for target in targets:
        by_name[target.name].append(target)
    placed = []
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
            live = Live(parameter.name, target.tensor)
            placed.append(Placed(live, part, parameter.rows(start, stop) if parameter.shape else parameter.perturbed))
            end = stop
        if end != len(whole):
            raise ModelError(f"`{parameter.name}`: the engine has targets for {end} of {len(whole)} rows, expected all")
    return placed
