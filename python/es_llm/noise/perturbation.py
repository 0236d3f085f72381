"""Perturbations by name: which noise each tensor gets. Only this module lists the built-in names. Loads no torch.

A perturbation is a function `choose(name, shape)`: for each tensor it returns DENSE, `low_rank(r)`, or NONE (the tensor
keeps its values). A perturbation in another package is found by an entry point in the group `es_llm.perturbations`, or
by `file.py:NAME`. The journal's header holds the choice for each tensor, so a replay calls no perturbation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from es_llm._core import MAX_RANK, LowRank, Slice
from es_llm.errors import ConfigError
from es_llm.noise.backend import At
from es_llm.plugins import guarded, load_function

PERTURBATIONS: Final = ("dense", "low_rank")
"""Names of the built-in perturbations."""


@dataclass(frozen=True)
class Perturbation:
    """The noise of one tensor.

    kind: "dense": one value per weight; "low_rank": A B^T / sqrt(rank), for matrices; "none": the tensor isn't trained.
    rank: columns of the factors A and B.
    """

    kind: str
    rank: int = 1


Chooser: TypeAlias = Callable[[str, tuple[int, ...]], Perturbation]
"""(name of a parameter, its shape) -> its perturbation. A pure function: each rank calls it."""

DENSE: Final = Perturbation("dense")
NONE: Final = Perturbation("none")


def low_rank(rank: int) -> Perturbation:
    """Low-rank noise of this rank (EGGROLL, arXiv 2511.16652)."""
    return Perturbation("low_rank", rank)


def load_perturbation(name: str, rank: int = 1) -> Chooser:
    """The perturbation of a name: "dense"; "low_rank", which gives dense noise to tensors that aren't matrices; or an
    extension.

    Raises:
        ConfigError: there is no such perturbation, or its file can't be used.
    """
    if name == "dense":
        return lambda _, shape: DENSE
    if name == "low_rank":
        return lambda _, shape: low_rank(rank) if len(shape) == 2 and 0 not in shape else DENSE
    builtin = dict.fromkeys(PERTURBATIONS, f"{__name__}:load_perturbation")
    function = load_function("perturbation", name, builtin, attribute="choose")
    chosen = guarded(f"perturbation {name!r}", function)

    def choose(parameter: str, shape: tuple[int, ...]) -> Perturbation:
        perturbation: Perturbation = chosen(parameter, shape)
        if not _fits(perturbation, shape):
            most = min(*shape, MAX_RANK) if len(shape) == 2 else 0
            low = f", or low_rank(r) with an integer r in [1, {most}]" if most else " (low_rank is for matrices)"
            raise ConfigError(
                f"perturbation {name!r}: `{parameter}` of shape {list(shape)} must get DENSE or NONE{low}, got "
                f"{perturbation!r}"
            )
        return perturbation

    return choose


def _fits(perturbation: Any, shape: tuple[int, ...]) -> bool:
    """True if a tensor of this shape can have this noise. A rank above the smaller side would cost more than dense
    noise."""
    if not isinstance(perturbation, Perturbation) or perturbation.kind != "low_rank":
        return perturbation in (DENSE, NONE)
    rank = perturbation.rank
    return type(rank) is int and len(shape) == 2 and 1 <= rank <= min(*shape, MAX_RANK)


def noise_of(tensor: int, shape: tuple[int, ...], perturbation: Perturbation) -> At:
    """All elements of a tensor with their noise, as the kernels take them.

    Raises:
        ConfigError: the kind is unknown, or low-rank noise is for a tensor that is no matrix.
        KernelError, NoiseAddressError: the rank or the tensor is out of range.
    """
    if perturbation.kind == "dense":
        return Slice(tensor, math.prod(shape))
    if perturbation.kind == "low_rank" and len(shape) == 2 and 0 not in shape:
        return LowRank(tensor, shape, perturbation.rank)
    raise ConfigError(
        f"a tensor of shape {list(shape)} must have a perturbation dense"
        f"{' or low_rank' if len(shape) == 2 else ''}, got {perturbation}"
    )
