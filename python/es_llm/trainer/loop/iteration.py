"""One iteration's work: units on any rank, and the record that their scores come to on the leader.

perturb   live = round(master + sign * sigma * noise)    when a unit's member isn't the one before it
generate  completions of one unit                        while workers grade those of the unit before
grade     completions -> rewards -> the unit's score
reference answers of the unperturbed model               one small unit more, with which members are compared
record    all units' scores -> fitness -> coefficients
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from es_llm._core import FitnessTable, Record, plan_units, unit_score
from es_llm.rewards.batch import Batch
from es_llm.rewards.scoring import Pending
from es_llm.rollout.engine import Completion
from es_llm.team import Outcome, Round, Table
from es_llm.trainer.learning.answers import (
    TRACED_MEMBERS,
    TRACED_PROMPTS,
    Comparison,
    compare,
    decode_answers,
    encode_answers,
)
from es_llm.trainer.learning.diagnosis import Evidence
from es_llm.units.completion_log import CompletionLog
from es_llm.units.counts import encode_logged, logged_metrics, reward_metrics, tally
from es_llm.units.prefetcher import Ahead
from es_llm.units.run_state import RunState

ITERATE = 0
"""The kind of its rounds."""
_UNPERTURBED: Final = -1
"""In the place of a member: the weights without noise."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of all completions of an iteration, equal however the units were spread; but `waited_s`, the seconds that all
    ranks together waited for rewards. `rewards` are metrics by name, `logged` is what functions logged, by theirs.
    `cut_off`, `empty` and `failures` are numbers of completions."""

    completions: int
    mean_length: float
    cut_off: int
    empty: int
    failures: int
    comparison: Comparison | None
    waited_s: float
    rewards: dict[str, float]
    logged: dict[str, float]

    def evidence(self, record: Record) -> Evidence:
        """What tells whether the run can learn."""
        return Evidence(
            step=record.iteration + 1,
            fitness=tuple(value for value in record.fitness if value is not None),
            completions=self.completions,
            failures=self.failures,
            empty=self.empty,
            cut_off=self.cut_off,
            comparison=self.comparison,
        )


@dataclass(frozen=True)
class _Begun:
    completions: list[Completion]
    pending: Pending | None


class Iteration:
    """The work of the iteration that comes next; `seconds` is what this rank spent on which part of it."""

    def __init__(self, run: RunState, log: CompletionLog | None = None) -> None:
        self._run, self._log = run, log
        self.number = run.population.iteration
        self._members = run.population.ask()
        self._rows = run.prompts.batch(self.number)
        self._unit_rows = run.unit_rows(len(self._rows))
        self._units = plan_units(len(self._members), len(self._rows), self._unit_rows)
        steps = run.config.reference_steps
        self._traced = min(TRACED_PROMPTS, len(self._rows), self._unit_rows)
        self._has_reference = steps > 0 and self.number % steps == 0
        self._live: int | None = None
        self._ahead = Ahead(self._begin, lambda: run.team.upcoming(Round(ITERATE, self.number)))
        self.seconds: dict[str, float] = defaultdict(float)

    @property
    def costs(self) -> list[float]:
        """Expected cost of each unit: its prompts. The reference is the last one."""
        units = [float(unit.stop - unit.start) for unit in self._units]
        return [*units, float(self._traced)] if self._has_reference else units

    def evaluate(self, index: int) -> Outcome:
        """The sums of one unit; the counts of its completions (tokens, finished, all, empty), the microseconds that
        their rewards were waited for, and each function's tally. The reference has traced answers alone."""
        run, begun = self._run, self._ahead.take(index)
        graded = begun.pending.result() if begun.pending is not None else None
        if index == len(self._units):
            rewards = graded.totals if graded is not None else [None] * len(begun.completions)
            return Outcome([0.0], [], _figures(encode_answers(begun.completions, rewards), b""))
        assert begun.pending is not None
        assert graded is not None
        waited_s, unit = begun.pending.waited_s, self._units[index]
        if self._log is not None:
            rows = self._rows[unit.start : unit.stop]
            self._log.keep(rows, begun.completions, graded, step=self.number + 1, member=unit.member)
        self.seconds["rewards"] += waited_s
        scores = [graded.scores[name] for name in run.rewards.names]
        tokens = sum(len(completion.token_ids) for completion in begun.completions)
        finished = sum(completion.finished for completion in begun.completions)
        empty = sum(not completion.text.strip() for completion in begun.completions)
        counts = [tokens, finished, len(begun.completions), empty, round(waited_s * 1e6), *tally(scores)]
        is_traced = unit.member < TRACED_MEMBERS and unit.start == 0
        traced = encode_answers(begun.completions, graded.totals) if is_traced else b""
        sums = unit_score(graded.totals, run.config.failure_policy)
        return Outcome(sums, counts, _figures(traced, encode_logged(scores)))

    def record(self, table: Table) -> tuple[Record, Figures]:
        """What all units come to. Changes nothing: journal it, then apply it.

        Raises:
            PopulationError: a reward failed and the policy is `raise`.
        """
        run, config = self._run, self._run.config
        scores = FitnessTable(len(self._members), len(self._rows), self._unit_rows, config.failure_policy)
        for unit, values in enumerate(table.values[: len(self._units)]):
            scores.set(unit, values)
        record = run.population.tell(
            scores.fitness(),
            sigma=config.sigma,
            learning_rate=config.learning_rate,
            cursor=run.prompts.cursor(self.number),
        )
        tokens, finished, completions, empty, waited_us, *tallies = table.counts
        parts = [(unit, *_parts(figures)) for unit, figures in table.figures]
        figures = Figures(
            completions=completions,
            mean_length=tokens / completions,
            cut_off=completions - finished,
            empty=empty,
            failures=scores.failures,
            comparison=self._compared({unit: traced for unit, traced, _ in parts if traced}),
            waited_s=waited_us / 1e6,
            rewards=reward_metrics(run.rewards.names, tallies),
            logged=logged_metrics([(unit, logged) for unit, _, logged in parts if logged]),
        )
        return record, figures

    def _compared(self, traced: dict[int, bytes]) -> Comparison | None:
        """The traced answers of all units, compared."""
        reference = traced.pop(len(self._units), None)
        return compare(
            {self._units[unit].member: decode_answers(answers) for unit, answers in traced.items()},
            {member.index: member.pair for member in self._members[:TRACED_MEMBERS]},
            None if reference is None else decode_answers(reference),
        )

    def _begin(self, index: int) -> _Begun:
        """Perturb, generate, and send the completions to be graded."""
        run, is_reference = self._run, index == len(self._units)
        start = time.perf_counter()
        self._write_live(_UNPERTURBED if is_reference else self._units[index].member)
        perturbed = time.perf_counter()
        if is_reference:
            rows = self._rows[: self._traced]
        else:
            rows = self._rows[self._units[index].start : self._units[index].stop]
        completions = run.complete(rows)
        batch = Batch.of(
            rows, [c.text for c in completions], [c.token_ids for c in completions], run.state(self.number)
        )
        generated = time.perf_counter()
        # A function of a member's whole set of answers can't judge a part of it.
        pending = None if is_reference and run.rewards.set_level else run.rewards.submit(batch)
        self.seconds["perturb"] += perturbed - start
        self.seconds["generate"] += generated - perturbed
        self.seconds["rewards"] += time.perf_counter() - generated
        return _Begun(completions, pending)

    def _write_live(self, member: int) -> None:
        """Make the live weights those of this member, unless they are."""
        if self._live == member:
            return
        run = self._run
        if member == _UNPERTURBED:
            run.weights.unperturb()
        else:
            run.weights.perturb(self._members[member], run_seed=run.population.run_seed, sigma=run.config.sigma)
        run.engine.weights_changed()
        self._live = member


def _figures(traced: bytes, logged: bytes) -> bytes:
    """Traced answers and logged figures of a unit as one; empty without any."""
    return len(traced).to_bytes(4, "little") + traced + logged if traced or logged else b""


def _parts(figures: bytes) -> tuple[bytes, bytes]:
    """Traced answers and logged figures; the reverse of `_figures`."""
    size = 4 + int.from_bytes(figures[:4], "little")
    return figures[4:size], figures[size:]
