"""The choice of a kind of noise for a tensor: the one place that knows which perturbations exist. Loads no torch."""

from __future__ import annotations

import math

from es_llm._core import LowRank, Slice
from es_llm.config.es import PERTURBATIONS
from es_llm.errors import KernelError
from es_llm.noise.backend import At


def whole_tensor(tensor: int, shape: tuple[int, ...], perturbation: str = "dense", rank: int = 1) -> At:
    """All elements of a tensor, with its kind of noise: `LowRank` for the matrices of a low-rank run, else `Slice`.

    Args:
        tensor: id in noise addresses.
        perturbation: of the run, "dense" or "low_rank". Tensors that aren't matrices get dense noise in both.
        rank: columns of the factors of low-rank noise.

    Raises:
        KernelError, NoiseAddressError: another perturbation, a rank or a tensor out of range.
    """
    if perturbation not in PERTURBATIONS:
        raise KernelError(f"`perturbation` must be one of {', '.join(PERTURBATIONS)}, got {perturbation!r}")
    if perturbation == "low_rank" and len(shape) == 2 and 0 not in shape:
        return LowRank(tensor, shape, rank)
    return Slice(tensor, math.prod(shape))
