"""Checks the results of the timed kernels, bit for bit, at both ends of every tensor.

The results are compared with the numpy reference, or with the instruction set "plain" if the reference is too slow.
"""

from __future__ import annotations

import numpy as np
import torch

from es_llm import _core
from es_llm._core import LowRank, Noise, Slice, Terms
from es_llm.model.weights import Weights
from es_llm.noise import reference

END = 500
"""Number of weights that are compared at each end of a tensor."""

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
    """Check that two arrays have equal bits."""
    assert got.tobytes() == expected.tobytes(), f"{what}: not the reference's bits"


def check_live(module: torch.nn.Module, weights: Weights, member: _core.Member) -> None:
    """Check that the live weights are those of the member."""
    noise = Noise(member.run_seed, member.iteration, member.pair)
    for tensor, (live, master) in enumerate(zip(module.parameters(), weights.master, strict=True)):
        for (first, got), (_, values) in zip(ends(live), ends(master), strict=True):
            at, dtype = Slice(tensor, len(values), element=first), str(live.dtype).removeprefix("torch.")
            same(got, reference.perturbed(values, noise, member.sign * member.sigma, at, dtype), "perturb")


def check_update(before: list[Ends], weights: Weights, records: list[_core.Record]) -> None:
    """Check that the masters are those of `before`, moved by the records."""
    moved = _by_reference if len(records) <= 3 else _by_plain_kernels
    for tensor, (parts, master) in enumerate(zip(before, weights.master, strict=True)):
        for (first, values), (_, got) in zip(parts, ends(master), strict=True):
            expected = values
            for record in records:
                expected = moved(expected, terms_of(record), Slice(tensor, len(values), element=first))
            same(got, expected, "update")


_by_reference = reference.accumulated


def _by_plain_kernels(values: np.ndarray, terms: Terms, at: Slice) -> np.ndarray:
    path, moved = _core.kernel_path(), values.copy()
    _core.set_kernel_path("plain")
    _core.accumulate(moved, terms, at, dtype="float32")
    _core.set_kernel_path(path)
    return moved


def check_low_rank(before: np.ndarray, after: np.ndarray, record: _core.Record, *, rank: int) -> None:
    """Check that `after` is the first block of tensor 0, moved by the record."""
    rows, columns = before.shape
    expected = reference.accumulated(before, terms_of(record), LowRank(0, (rows, columns), rank))
    same(after, expected, "low-rank update")


def terms_of(record: _core.Record) -> Terms:
    """The terms of a record."""
    return Terms(record.run_seed, record.iteration, record.sgd_coefficients())
