"""Base weights + journal = trained weights, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

from es_llm._core import Population, Record
from es_llm.errors import DivergenceError
from es_llm.model.weights import Weights


def replay_records(
    records: Sequence[Record], weights: Weights, population: Population, digests: dict[int, int]
) -> None:
    """Apply records to the base weights, in order, and check the last of the digests that belongs to them.

    Raises:
        DivergenceError: the weights differ from those that the run had.
        PopulationError: the records don't fit the population.
    """
    checked = max((iteration for iteration in digests if iteration < len(records)), default=None)
    for record in records:
        weights.update(record)
        population.apply(record)
        if record.iteration == checked and (got := weights.digest()) != digests[checked]:
            raise DivergenceError(
                f"after step {checked + 1} the replayed weights have digest {got:016x}, "
                f"the journal says {digests[checked]:016x}: other base weights, or damaged memory"
            )
