"""Replay: the base weights and a journal give the trained weights, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

from es_llm._core import Population, Record
from es_llm.errors import DivergenceError
from es_llm.model.weights import Weights


def replay_records(
    records: Sequence[Record], weights: Weights, population: Population, digests: dict[int, int]
) -> None:
    """Apply `records` in order to the base weights, and check the last digest among them.

    Raises:
        DivergenceError: the weights differ from those of the run.
        PopulationError: the records don't fit the population.
    """
    checked = max((iteration for iteration in digests if iteration < len(records)), default=None)
    for record in records:
        weights.update(record, run_seed=population.run_seed)
        population.apply(record)
        if record.iteration == checked and (got := weights.digest()) != digests[checked]:
            raise DivergenceError(
                f"after iteration {checked + 1} the replayed weights have digest {got:016x}, but the journal has "
                f"{digests[checked]:016x}: the base weights are others, or memory is damaged"
            )
