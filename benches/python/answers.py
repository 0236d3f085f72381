"""Are the timed kernels' answers right? Compared bit for bit, at both ends of every tensor.

The numpy reference says what is right; the instruction set "plain" where the reference would take too long.
"""

from __future__ import annotations

import numpy as np
import torch

from es_llm import _core
from es_llm.model.weights import Weights
from es_llm.noise import reference
from es_llm.noise.address import NoiseAddress

END = 500
"""Weights at each end of a tensor that are compared."""

Ends = list[tuple[int, np.ndarray]]
"""(first element, values); 16-bit types as uint16."""


def ends(tensor: torch.Tensor) -> Ends:
    """(first element, values) at both ends of a tensor; 16-bit types as uint16."""
    flat = tensor.detach().reshape(-1)
    found = []
    for first in (0, max(flat.numel() - END, 0)):
        part = flat[first : first + END].clone().cpu()
        kind = torch.float32 if part.dtype == torch.float32 else torch.int16
        values = part.view(kind).numpy()
        found.append((first, values if kind == torch.float32 else values.view(np.uint16)))
    return found


def masters_of(weights: Weights) -> list[Ends]:
    """`ends` of every master."""
    return [ends(master) for master in weights.master]


def same(got: np.ndarray, expected: np.ndarray, what: str) -> None:
    """Equal bits."""
    assert got.tobytes() == expected.tobytes(), f"{what}: not the reference's bits"


def check_live(module: torch.nn.Module, weights: Weights, member: _core.Member, *, run_seed: int, sigma: float) -> None:
    """The live weights are those of the member."""
    for tensor, (live, master) in enumerate(zip(module.parameters(), weights.master, strict=True)):
        for (first, got), (_, values) in zip(ends(live), ends(master), strict=True):
            address = NoiseAddress(run_seed, member.iteration, member.pair, tensor, first)
            dtype = str(live.dtype).removeprefix("torch.")
            expected = reference.perturbed(values, scale=member.sign * sigma, dtype=dtype, address=address)
            same(got, expected, "perturb")


def check_update(before: list[Ends], weights: Weights, records: list[_core.Record], *, run_seed: int) -> None:
    """The masters are those before, moved by the records."""
    moved = _by_reference if len(records) <= 3 else _by_plain_kernels
    for tensor, (parts, master) in enumerate(zip(before, weights.master, strict=True)):
        for (first, values), (_, got) in zip(parts, ends(master), strict=True):
            expected = values
            for record in records:
                expected = moved(
                    expected,
                    pairs=record.pairs,
                    coefficients=record.coefficients,
                    run_seed=run_seed,
                    iteration=record.iteration,
                    tensor=tensor,
                    element=first,
                )
            same(got, expected, "update")


_by_reference = reference.accumulated


def _by_plain_kernels(values: np.ndarray, **update: object) -> np.ndarray:
    path, moved = _core.kernel_path(), values.copy()
    _core.set_kernel_path("plain")
    _core.accumulate(moved, dtype="float32", **update)
    _core.set_kernel_path(path)
    return moved


def check_low_rank(before: np.ndarray, after: np.ndarray, record: _core.Record, *, run_seed: int, rank: int) -> None:
    """`after` is the first block of tensor 0, moved by the record."""
    members = {"pairs": record.pairs, "coefficients": record.coefficients, "iteration": record.iteration}
    expected = reference.accumulated_low_rank(before, rank=rank, run_seed=run_seed, tensor=0, **members)
    same(after, expected, "low-rank update")
