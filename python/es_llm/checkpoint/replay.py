"""Base weights + journal = trained weights, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from es_llm._core import Population, Record
from es_llm.errors import DivergenceError
from es_llm.model.weights import Weights


def replay_records(
    records: Sequence[Record], weights: Weights, population: Population, digests: Mapping[int, int]
) -> None:
    """Apply records, in order, to the base weights, and check the last digest that their journal holds."""
    checked = last_digest(digests, len(records))
    for record in records:
        weights.update(record)
        population.apply(record)
        if record.iteration == checked:
            require_digest(weights, checked, digests)


def last_digest(digests: Mapping[int, int], records: int) -> int | None:
    """The last of the first `records` iterations with a digest; None if there is none."""
    return max((iteration for iteration in digests if iteration < records), default=None)


def require_digest(weights: Weights, iteration: int, digests: Mapping[int, int]) -> None:
    """Check that the weights are those that the run had after the iteration."""
    if (got := weights.digest()) != digests[iteration]:
        raise DivergenceError(
            f"after iteration {iteration + 1} the replayed weights have digest {got:016x}, the journal has "
            f"{digests[iteration]:016x}: other base weights, or damaged memory"
        )
