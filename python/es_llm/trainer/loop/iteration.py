"""The work of one iteration: units on any rank, and on the leader the record that follows from their results.

switch    live weights = round(master + sign * sigma * noise)    the engine does it where a unit has another member
generate  completions of one unit                                while workers grade those of the unit before
grade     completions -> rewards -> the unit's sums
reference answers of the unperturbed model                       part of the first unit, or a small unit of its own
record    all units' sums -> fitness -> coefficients
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from es_llm._core import FitnessTable, Member, Record, Unit, UpdateReport, plan_units, unit_sums
from es_llm.checkpoint.metrics_log import record_metrics
from es_llm.rewards.reward_set import BatchRewards, PendingRewards
from es_llm.rollout.engine import Completion, Sampling
from es_llm.schedules import hyperparameters
from es_llm.team import Outcome, Round, RoundKind, Table
from es_llm.trainer.learning.answers import (
    TRACED_MEMBERS,
    Answers,
    Comparison,
    compare,
    decode_answers,
    encode_answers,
)
from es_llm.trainer.learning.diagnosis import Figures
from es_llm.types import Row
from es_llm.units.completion_log import CompletionLog
from es_llm.units.counts import Counts, CountsCodec, encode_logged, logged_metrics, with_logged
from es_llm.units.run_state import TRACED_PROMPTS, Prefetcher, RunState, training_sampling


class _Begun(NamedTuple):
    """A unit whose completions are generated, and their rewards, which workers still compute.

    completions: those of each member. pending: the rewards of each member. reference: completions of the unperturbed
    model and their rewards, if it has any; None if the unit doesn't hold them.
    """

    completions: list[list[Completion]]
    pending: list[PendingRewards]
    reference: tuple[list[Completion], PendingRewards | None] | None


class Iteration:
    """The work of the next iteration. `seconds` is the time that this rank spent, by the kind of work.

    Every `reference_steps` iterations there is a reference: the unperturbed model's answers to the first few prompts.
    They are part of the first unit (see `RunState.joins_reference`) or the last unit, which holds nothing else.
    """

    def __init__(self, run: RunState, log: CompletionLog | None = None) -> None:
        self._run, self._log = run, log
        self.number = run.population.iteration
        run.live.forget()
        self._hyper = hyperparameters(run.config, self.number)
        self._members = run.population.ask(sigma=self._hyper.sigma)
        self._rows, self._sampling = _answered(run, self.number)
        self._sizes = {
            "members_per_unit": run.engine.members_per_unit,
            "prompts_per_unit": run.unit_rows(len(self._rows) // run.config.num_generations),
        }
        self._units = plan_units(len(self._members), len(self._rows), **self._sizes)
        steps = run.config.reference_steps
        has_reference = steps > 0 and self.number % steps == 0
        last = 0 if run.joins_reference else len(self._units)
        self._reference_unit = last if has_reference else None
        self._reference = range(min(TRACED_PROMPTS, len(self._units[0].prompts)))
        self._prefetcher = Prefetcher(self._begin, lambda: run.team.upcoming(Round(RoundKind.ITERATION, self.number)))
        self._codec = CountsCodec(len(run.rewards.names))
        self.seconds: dict[str, float] = defaultdict(float)

    @property
    def costs(self) -> list[float]:
        """Expected cost of each unit: its number of completions."""
        costs = [float(len(unit.members) * len(unit.prompts)) for unit in self._units]
        if self._reference_unit == len(costs):
            costs.append(0.0)
        if self._reference_unit is not None:
            costs[self._reference_unit] += len(self._reference)
        return costs

    def evaluate(self, index: int) -> Outcome:
        """The results of one unit: the sums of its rewards, its counts, and its traced answers and logged figures. A
        unit of the reference alone has traced answers alone."""
        run, begun = self._run, self._prefetcher.take(index)
        rewards = [pending.result() for pending in begun.pending]
        reference = _reference_answers(begun)
        if index == len(self._units):
            return Outcome([0.0], [], _pack(reference, b""))
        unit = self._units[index]
        waited_s = sum(pending.waited_s for pending in begun.pending)
        self.seconds["rewards"] += waited_s
        self._keep(unit, begun.completions, rewards)
        results = [[each.results[name] for name in run.rewards.names] for each in rewards]
        counts = [Counts.of(*each) for each in zip(begun.completions, results, strict=True)]
        traced = [
            encode_answers(completions, each.rewards)
            for member, completions, each in zip(unit.members, begun.completions, rewards, strict=True)
            if member < TRACED_MEMBERS and unit.prompts.start == 0
        ]
        flat = [reward for each in rewards for reward in each.rewards]
        return Outcome(
            unit_sums(flat, members=len(unit.members), failure_policy=run.config.failure_policy),
            self._codec.encode(*counts, Counts(waited_us=round(waited_s * 1e6))),
            _pack(b"".join([*traced, reference]), encode_logged(score for each in results for score in each)),
        )

    def record(self, table: Table) -> tuple[Record, Figures]:
        """The record and the figures of the iteration. Changes nothing: journal the record, then apply it."""
        run = self._run
        policy = run.config.failure_policy
        fitness = FitnessTable(len(self._members), len(self._rows), failure_policy=policy, **self._sizes)
        fitness.fill(table)
        record = run.population.tell_table(
            fitness,
            sigma=self._hyper.sigma,
            learning_rate=self._hyper.learning_rate,
            cursor=run.prompts.cursor(self.number),
        )
        (counts,) = self._codec.decode(table.counts)
        parts = [(unit, *_unpack(figures)) for unit, figures in table.figures]
        figures = Figures(
            step=record.iteration + 1,
            fitness=tuple(value for value in record.fitness if value is not None),
            counts=counts,
            failures=fitness.failures,
            comparison=self._compared({unit: traced for unit, traced, _ in parts if traced}),
            rewards=counts.reward_metrics(run.rewards.names),
            logged=logged_metrics(logged for _, _, logged in parts if logged),
        )
        return record, figures

    def _compared(self, traced: dict[int, bytes]) -> Comparison | None:
        reference: Answers | None = None
        answers: dict[int, Answers] = {}
        for index, data in traced.items():
            unit = self._units[index] if index < len(self._units) else None
            members = [] if unit is None else [member for member in unit.members if member < TRACED_MEMBERS]
            parts = list(decode_answers(data).reshape(len(members) + (index == self._reference_unit), -1))
            if index == self._reference_unit:
                reference = parts.pop()
            answers |= dict(zip(members, parts, strict=True))
        pairs = {member.index: member.pair for member in self._members[:TRACED_MEMBERS]}
        return compare(answers, pairs, reference)

    def _begin(self, index: int) -> _Begun:
        run, has_reference = self._run, index == self._reference_unit
        start, switched = time.perf_counter(), run.live.seconds
        unit = self._units[index] if index < len(self._units) else None
        prompts = self._reference if unit is None else unit.prompts
        rows = self._rows[prompts.start : prompts.stop]
        members: list[Member | None] = [] if unit is None else [self._members[member] for member in unit.members]
        sampling = self._sampling
        if sampling is not None:
            sampling = replace(sampling, addresses=sampling.addresses[prompts.start : prompts.stop])
        completions = run.complete([*members, *[None] * has_reference], rows, sampling)
        generated, switched = time.perf_counter(), run.live.seconds - switched
        # A function of a member's whole set of answers can't judge a part of it.
        judged = completions[: len(members)] if run.rewards.set_level else completions
        pending = [run.rewards.submit(run.batch(rows, each, self.number)) for each in judged]
        self.seconds["perturb"] += switched
        self.seconds["generate"] += generated - start - switched
        self.seconds["rewards"] += time.perf_counter() - generated
        if not has_reference:
            return _Begun(completions, pending, None)
        graded = pending.pop() if len(pending) > len(members) else None
        return _Begun(completions[:-1], pending, (completions[-1], graded))

    def _keep(self, unit: Unit, completions: Sequence[list[Completion]], rewards: Sequence[BatchRewards]) -> None:
        if self._log is None:
            return
        rows = self._rows[unit.prompts.start : unit.prompts.stop]
        for member, own, each in zip(unit.members, completions, rewards, strict=True):
            self._log.keep(rows, own, each, step=self.number + 1, member=member)


def _answered(run: RunState, iteration: int) -> tuple[list[Row], Sampling | None]:
    """The rows that each member answers, and how their answers are sampled; None: greedy.

    With k = `num_generations`, all prompts come k times, one sample of each after the other. The random numbers of a
    (prompt, sample) are the same for all members.
    """
    config, rows = run.config, run.prompts.batch(iteration)
    answered, sampling = rows * config.num_generations, training_sampling(config)
    if sampling is None:
        return answered, None
    first = 0 if config.fixed_samples else run.prompts.cursor(iteration)
    samples = range(config.num_generations)
    addresses = [((first + row) % 2**32, sample) for sample in samples for row in range(len(rows))]
    return answered, replace(sampling, addresses=addresses)


def _reference_answers(begun: _Begun) -> bytes:
    """The traced answers of the unperturbed model in a unit; empty if it holds none."""
    if begun.reference is None:
        return b""
    completions, pending = begun.reference
    rewards = [None] * len(completions) if pending is None else pending.result().rewards
    return encode_answers(completions, rewards)


def _pack(traced: bytes, logged: bytes) -> bytes:
    """Traced answers and logged figures of a unit as one; empty without any."""
    return len(traced).to_bytes(4, "little") + traced + logged if traced or logged else b""


def _unpack(figures: bytes) -> tuple[bytes, bytes]:
    size = 4 + int.from_bytes(figures[:4], "little")
    return figures[4:size], figures[size:]


def iteration_metrics(
    record: Record, figures: Figures | None, report: UpdateReport, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Metrics of an iteration: of its record, of its completions (if this rank led the iteration) and of its update;
    and metrics that reward functions logged, if the trainer doesn't use their names."""
    completions = {
        "completions/mean_length": figures.counts.mean_length,
        "completions/clipped_ratio": figures.counts.clipped_ratio,
        "completions/empty_ratio": figures.counts.empty / figures.counts.completions,
        "rewards/failures": figures.failures,
        **figures.rewards,
        **(figures.comparison.metrics() if figures.comparison is not None else {}),
    } if figures is not None else {}  # fmt: skip
    own = {
        **record_metrics(record),
        **completions,
        "update/norm": report.update_norm,
        "update/cosine": report.cosine,
        "update/moved_ratio": report.moved / report.elements,
        "update/nonfinite": report.nonfinite,
        "seconds": seconds.get("total", 0.0),
        **{f"seconds/{name}": value for name, value in seconds.items() if name != "total"},
    }
    return with_logged(own, figures.logged, _LATER) if figures is not None else own


_LATER: Final = ("rewards/wait_ratio", "bytes_sent", "bytes_received", "epoch")
"""Names of figures that are added to these."""
