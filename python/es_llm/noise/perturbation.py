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


def load_perturbation(name: str, rank: int = 1, *, vectors: str = "full") -> Chooser:
    """The perturbation of a name: "dense"; "low_rank", which gives tensors that aren't matrices (see `is_matrix`) dense
    noise, or with `vectors` "frozen" none; or an extension.

    Raises:
        ConfigError: there is no such perturbation, or its file can't be used.
    """
    if name == "dense":
        return lambda _, shape: DENSE
    if name == "low_rank":
        other = NONE if vectors == "frozen" else DENSE
        return lambda _, shape: low_rank(rank) if is_matrix(shape) else other
    builtin = dict.fromkeys(PERTURBATIONS, f"{__name__}:load_perturbation")
    function = load_function("perturbation", name, builtin, attribute="choose")
    chosen = guarded(f"perturbation {name!r}", function)

    def choose(parameter: str, shape: tuple[int, ...]) -> Perturbation:
        perturbation: Perturbation = chosen(parameter, shape)
        if not _fits(perturbation, shape):
            most = min(*shape[-2:], MAX_RANK) if is_matrix(shape) else 0
            low = f", or low_rank(r) with an integer r in [1, {most}]" if most else " (low_rank is for matrices)"
            raise ConfigError(
                f"perturbation {name!r}: `{parameter}` of shape {list(shape)} must get DENSE or NONE{low}, got "
                f"{perturbation!r}"
            )
        return perturbation

    return choose


def is_matrix(shape: tuple[int, ...]) -> bool:
    """True for matrices and for stacks of them, such as the experts (experts, out, in) of a layer."""
    return len(shape) in (2, 3) and 0 not in shape and 1 not in shape[1:-1]


def _fits(perturbation: Any, shape: tuple[int, ...]) -> bool:
    """True if a tensor of this shape can have this noise. A rank above the smaller side would cost more than dense
    noise."""
    if not isinstance(perturbation, Perturbation) or perturbation.kind != "low_rank":
        return perturbation in (DENSE, NONE)
    rank = perturbation.rank
    return type(rank) is int and is_matrix(shape) and 1 <= rank <= min(*shape[-2:], MAX_RANK)


def noise_of(tensor: int, shape: tuple[int, ...], perturbation: Perturbation) -> At:
    """All elements of a tensor with their noise, as the kernels take them.

    Raises:
        ConfigError: the kind is unknown, or low-rank noise is for a tensor that is no matrix.
        KernelError, NoiseAddressError: the rank or the tensor is out of range.
    """
    if perturbation.kind == "dense":
        return Slice(tensor, math.prod(shape))
    if perturbation.kind == "low_rank" and is_matrix(shape):
        # The matrices of a stack lie below each other: each has rows of A of its own, and all share B.
        return LowRank(tensor, (math.prod(shape[:-1]), shape[-1]), perturbation.rank)
    raise ConfigError(
        f"a tensor of shape {list(shape)} must have a perturbation dense"
        f"{' or low_rank' if is_matrix(shape) else ''}, got {perturbation}"
    )
