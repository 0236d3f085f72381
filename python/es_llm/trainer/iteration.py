"""One iteration's work: units on any rank, and the record that their scores come to on the leader.

perturb   live = round(master + sign * sigma * noise)    when a unit's member isn't the one before it
evaluate  completions of one unit -> rewards -> the unit's score
record    all units' scores -> fitness -> coefficients
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass

from es_llm._core import FitnessTable, Record, plan_units, unit_score
from es_llm.rewards.scoring import Batch
from es_llm.team import Outcome, Table
from es_llm.trainer.state import RunState


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Means over all completions of an iteration, equal however the units were spread."""

    mean_length: float
    clipped_ratio: float
    failures: int


class Iteration:
    """The work of the iteration that comes next; `seconds` is what this rank spent on which part of it."""

    def __init__(self, run: RunState) -> None:
        self._run = run
        self.number = run.population.iteration
        self._members = run.population.ask()
        self._rows = run.prompts.batch(self.number)
        self._units = plan_units(len(self._members), len(self._rows), run.config.prompts_per_unit)
        self._live: int | None = None
        self.seconds: dict[str, float] = defaultdict(float)

    @property
    def costs(self) -> list[float]:
        """Expected cost of each unit: its prompts."""
        return [float(unit.stop - unit.start) for unit in self._units]

    def evaluate(self, index: int) -> Outcome:
        """The score of one unit, and the counts of its completions: tokens, finished, all."""
        run, unit = self._run, self._units[index]
        start = time.perf_counter()
        if self._live != unit.member:
            run.weights.perturb(self._members[unit.member], run_seed=run.population.run_seed, sigma=run.config.sigma)
            run.engine.weights_changed()
            self._live = unit.member
        perturbed = time.perf_counter()
        rows = self._rows[unit.start : unit.stop]
        completions = run.engine.evaluate([row["prompt"] for row in rows])
        batch = Batch.of(rows, [c.text for c in completions], [c.token_ids for c in completions])
        score = unit_score(run.rewards.score(batch), run.config.failure_policy)
        self.seconds["perturb"] += perturbed - start
        self.seconds["evaluate"] += time.perf_counter() - perturbed
        tokens = sum(len(completion.token_ids) for completion in completions)
        return Outcome(score, [tokens, sum(completion.finished for completion in completions), len(completions)])

    def record(self, table: Table) -> tuple[Record, Figures]:
        """What all units come to. Changes nothing: journal it, then apply it.

        Raises:
            PopulationError: a reward failed and the policy is `raise`.
        """
        run, config = self._run, self._run.config
        scores = FitnessTable(len(self._members), len(self._rows), config.prompts_per_unit, config.failure_policy)
        for unit, values in enumerate(table.values):
            scores.set(unit, values)
        record = run.population.tell(
            scores.fitness(),
            sigma=config.sigma,
            learning_rate=config.learning_rate,
            cursor=run.prompts.cursor(self.number),
        )
        tokens, finished, completions = table.counts
        figures = Figures(
            mean_length=tokens / completions, clipped_ratio=1.0 - finished / completions, failures=scores.failures
        )
        return record, figures
