"""Base weights + journal = trained weights, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from es_llm._core import Population, Record
from es_llm.errors import DivergenceError

if TYPE_CHECKING:
    from es_llm.model.weights import Weights


def apply_records(records: Sequence[Record], update: Callable[[Record], object], population: Population) -> None:
    """Apply records in order: to the weights by `update`, and to the population.

    Raises:
        PopulationError: the records don't fit the population.
    """
    for record in records:
        update(record)
        population.apply(record)


def replay_records(
    records: Sequence[Record], weights: Weights, population: Population, digests: Mapping[int, int]
) -> None:
    """Apply all records of a run to the base weights, and check the weights against the last digest.

    Raises:
        DivergenceError: the weights differ from the weights of the run.
        PopulationError: the records don't fit the population.
    """
    checked = last_digest(digests, len(records))
    known = 0 if checked is None else checked + 1
    apply_records(records[:known], weights.update, population)
    if checked is not None:
        require_digest(weights, checked, digests)
    apply_records(records[known:], weights.update, population)


def last_digest(digests: Mapping[int, int], records: int) -> int | None:
    """The last iteration with a digest among the first `records` iterations; None if there is none."""
    return max((iteration for iteration in digests if iteration < records), default=None)


def require_digest(weights: Weights, iteration: int, digests: Mapping[int, int]) -> None:
    """Check that the weights are those of the run after the iteration.

    Raises:
        DivergenceError: the weights have another digest.
    """
    if (got := weights.digest()) != digests[iteration]:
        raise DivergenceError(
            f"after iteration {iteration + 1} the replayed weights have digest {got:016x}, the journal has "
            f"{digests[iteration]:016x}: other base weights, or damaged memory"
        )
