"""One iteration's work: units on any rank, and the record that their scores come to on the leader.

perturb   live = round(master + sign * sigma * noise)    when a unit's member isn't the one before it
generate  completions of one unit                        while workers grade those of the unit before
grade     completions -> rewards -> the unit's score
record    all units' scores -> fitness -> coefficients
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass

from es_llm._core import FitnessTable, Record, plan_units, unit_score
from es_llm.rewards.batch import Batch
from es_llm.rewards.scoring import Pending
from es_llm.rollout.engine import Completion
from es_llm.team import Outcome, Round, Table
from es_llm.trainer.ahead import Ahead
from es_llm.trainer.completions import CompletionLog
from es_llm.trainer.state import RunState
from es_llm.trainer.tally import encode_logged, logged_metrics, reward_metrics, tally

ITERATE = 0
"""The kind of its rounds."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of all completions of an iteration, equal however the units were spread; but `waited_s`, the seconds that all
    ranks together waited for rewards. `rewards` are metrics by name, `logged` is what functions logged, by theirs."""

    completions: int
    mean_length: float
    clipped_ratio: float
    failures: int
    waited_s: float
    rewards: dict[str, float]
    logged: dict[str, float]


@dataclass(frozen=True)
class _Begun:
    completions: list[Completion]
    pending: Pending


class Iteration:
    """The work of the iteration that comes next; `seconds` is what this rank spent on which part of it."""

    def __init__(self, run: RunState, log: CompletionLog | None = None) -> None:
        self._run, self._log = run, log
        self.number = run.population.iteration
        self._members = run.population.ask()
        self._rows = run.prompts.batch(self.number)
        self._unit_rows = run.unit_rows(len(self._rows))
        self._units = plan_units(len(self._members), len(self._rows), self._unit_rows)
        self._live: int | None = None
        self._ahead = Ahead(self._begin, lambda: run.team.upcoming(Round(ITERATE, self.number)))
        self.seconds: dict[str, float] = defaultdict(float)

    @property
    def costs(self) -> list[float]:
        """Expected cost of each unit: its prompts."""
        return [float(unit.stop - unit.start) for unit in self._units]

    def evaluate(self, index: int) -> Outcome:
        """The score of one unit; the counts of its completions (tokens, finished, all), the microseconds that their
        rewards were waited for, and each function's tally."""
        run, begun = self._run, self._ahead.take(index)
        graded = begun.pending.result()
        waited_s = begun.pending.waited_s
        if self._log is not None:
            unit = self._units[index]
            rows = self._rows[unit.start : unit.stop]
            self._log.keep(rows, begun.completions, graded, step=self.number + 1, member=unit.member)
        self.seconds["rewards"] += waited_s
        scores = [graded.scores[name] for name in run.rewards.names]
        tokens = sum(len(completion.token_ids) for completion in begun.completions)
        finished = sum(completion.finished for completion in begun.completions)
        counts = [tokens, finished, len(begun.completions), round(waited_s * 1e6), *tally(scores)]
        return Outcome(unit_score(graded.totals, run.config.failure_policy), counts, encode_logged(scores))

    def record(self, table: Table) -> tuple[Record, Figures]:
        """What all units come to. Changes nothing: journal it, then apply it.

        Raises:
            PopulationError: a reward failed and the policy is `raise`.
        """
        run, config = self._run, self._run.config
        scores = FitnessTable(len(self._members), len(self._rows), self._unit_rows, config.failure_policy)
        for unit, values in enumerate(table.values):
            scores.set(unit, values)
        record = run.population.tell(
            scores.fitness(),
            sigma=config.sigma,
            learning_rate=config.learning_rate,
            cursor=run.prompts.cursor(self.number),
        )
        tokens, finished, completions, waited_us, *tallies = table.counts
        figures = Figures(
            completions=completions,
            mean_length=tokens / completions,
            clipped_ratio=1.0 - finished / completions,
            failures=scores.failures,
            waited_s=waited_us / 1e6,
            rewards=reward_metrics(run.rewards.names, tallies),
            logged=logged_metrics(table.figures),
        )
        return record, figures

    def _begin(self, index: int) -> _Begun:
        """Perturb, generate, and send the completions to be graded."""
        run, unit = self._run, self._units[index]
        start = time.perf_counter()
        if self._live != unit.member:
            run.weights.perturb(self._members[unit.member], run_seed=run.population.run_seed, sigma=run.config.sigma)
            run.engine.weights_changed()
            self._live = unit.member
        perturbed = time.perf_counter()
        rows = self._rows[unit.start : unit.stop]
        completions = run.complete(rows)
        batch = Batch.of(
            rows, [c.text for c in completions], [c.token_ids for c in completions], run.state(self.number)
        )
        generated = time.perf_counter()
        pending = run.rewards.submit(batch)
        self.seconds["perturb"] += perturbed - start
        self.seconds["generate"] += generated - perturbed
        self.seconds["rewards"] += time.perf_counter() - generated
        return _Begun(completions, pending)
