"""The work of one evaluation: units of held-out rows on any rank, and their means on the leader. The metrics are equal
however units were spread over ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from es_llm.data.messages import readable
from es_llm.evaluation.sampled_sets import SampledSets
from es_llm.evaluation.statistics import k3, pass_at_k, passes, vote
from es_llm.rewards.reward_set import BatchRewards, PendingRewards
from es_llm.rollout.engine import Completion, LogProbs, Sampling
from es_llm.team import Outcome, Round, Table
from es_llm.types import Row
from es_llm.units.completion_log import CompletionLog
from es_llm.units.counts import Counts, CountsCodec, encode_logged, logged_metrics, with_logged
from es_llm.units.run_state import Prefetcher, RunState


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics (means over the rows) and, on the leader, the first few answers as (prompt, completion) texts."""

    metrics: dict[str, float]
    answers: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class EvaluationSets:
    """What is evaluated.

    sets: name -> rows, at least one; metrics of the set named "" have no prefix.
    answer_of: the answer in a completion, as majority votes count it; None: the completion has no answer.
    base: gives the base model for the KL to it; None: no KL.
    """

    sets: Mapping[str, Sequence[Row]]
    answer_of: Callable[[str], str | None] = str.strip
    base: Callable[[], Any] | None = None


class _Unit(NamedTuple):
    name: str
    rows: range
    sampled: bool


class _Begun(NamedTuple):
    completions: list[Completion]
    pending: PendingRewards | SampledSets


class EvaluationWork:
    """Answers held-out rows without noise in the weights, and scores the answers.

    Metrics of each set, greedy: one per metric function (pass@1, where that is 0 or 1), `reward`,
    `completions/mean_length` (tokens), `completions/clipped_ratio` (share cut off by `max_completion_length`), and each
    reward function's own. With `eval_num_samples` n: `pass@k` for k = 1, 2, 4, ... n, `vote` (score of the majority's
    answer), `sampled_reward`, `sampled_mean_length`, and, if asked for, `kl` (k3 estimate per token of
    KL(model || base) over the samples, both at the temperature of the samples). A sample is right if its score by the
    first metric, else its reward, is at least 1. A score that failed counts as 0. Functions of whole sets see n sets:
    the first sample of each row, the second one, and so on.
    """

    def __init__(self, run: RunState, data: EvaluationSets, round_: Round, log: CompletionLog | None = None) -> None:
        self._run, self._data, self._log = run, data, log
        self._samples = run.config.eval_num_samples
        run.live.forget()
        self._units = [unit for name, rows in data.sets.items() for unit in self._units_of(name, len(rows))]
        self._greedy: dict[int, list[Completion]] = {}
        self._prefetcher = Prefetcher(self._begin, lambda: run.team.upcoming(round_))
        self._codec = CountsCodec(len(run.rewards.names), groups=2 * len(data.sets))

    @property
    def costs(self) -> list[float]:
        """Expected cost of each unit: its number of completions."""
        return [float(len(unit.rows) * (self._samples if unit.sampled else 1)) for unit in self._units]

    def evaluate(self, index: int) -> Outcome:
        """The results of one unit: the sums over its rows of the values that `EvaluationWork` lists, and its counts."""
        unit, begun = self._units[index], self._prefetcher.take(index)
        graded, completions = begun.pending.result(), begun.completions
        if self._log is not None:
            samples, step = self._samples if unit.sampled else 0, self._run.population.iteration
            self._log.keep(self._rows(unit), completions, graded, samples=samples, step=step, set=unit.name)
        group = 2 * list(self._data.sets).index(unit.name) + unit.sampled
        if unit.sampled:
            counts = self._codec.encode(Counts.of(completions), group=group)
            return Outcome(self._sampled_sums(unit, completions, graded), counts)
        rewards = self._run.rewards
        columns = [graded.metric(name).rewards for name in rewards.metric_names]
        sums = [float(np.nan_to_num(np.array(column, np.float64)).sum()) for column in (*columns, graded.rewards)]
        scores = [graded.results[name] for name in rewards.names]
        return Outcome(sums, self._codec.encode(Counts.of(completions, scores), group=group), encode_logged(scores))

    def result(self, table: Table, answers: int) -> Evaluation:
        """The means over all rows, with the first `answers` answers (generated again if another rank made them)."""
        metrics: dict[str, float] = {}
        counts = self._codec.decode(table.counts)
        for number, (name, rows) in enumerate(self._data.sets.items()):
            of_set = [
                (unit, values) for unit, values in zip(self._units, table.values, strict=True) if unit.name == name
            ]
            greedy, sampled = (sum(np.array(v) for unit, v in of_set if unit.sampled == kind) for kind in (False, True))
            means = self._greedy_means(greedy / len(rows), counts[2 * number])
            if self._samples:
                means |= self._sampled_means(sampled, len(rows), counts[2 * number + 1])
            prefix = f"{name}_" if name else ""
            metrics |= {f"{prefix}{key}": float(value) for key, value in means.items()}
        metrics = with_logged(metrics, logged_metrics(logged for _, logged in table.figures), ("seconds",))
        return Evaluation(metrics=metrics, answers=self._answers(answers))

    def _greedy_means(self, means: Any, counts: Counts) -> dict[str, float]:
        rewards = self._run.rewards
        named = dict(zip([*rewards.metric_names, "reward"], means, strict=True))
        named |= {"completions/mean_length": counts.mean_length, "completions/clipped_ratio": counts.clipped_ratio}
        own = counts.reward_metrics(rewards.names)
        if len(rewards.names) == 1:  # the mean of the only function is the reward
            own = {name: value for name, value in own.items() if "/failures" in name}
        return named | own

    def _sampled_means(self, sums: Any, rows: int, counts: Counts) -> dict[str, float]:
        *totals, kl, kl_tokens = sums
        names = [*(f"pass@{k}" for k in passes(self._samples)), "vote", "sampled_reward"]
        named = dict(zip(names, np.array(totals) / rows, strict=True))
        named["sampled_mean_length"] = counts.mean_length
        if self._data.base is not None:
            named["kl"] = kl / max(1.0, kl_tokens)
        return named

    def _sampled_sums(self, unit: _Unit, completions: list[Completion], graded: BatchRewards) -> list[float]:
        """Sums over rows: pass@k of each k, vote, mean reward; then the sum of k3 and the number of its tokens."""
        names, n = self._run.rewards.metric_names, self._samples
        judged = graded.metric(names[0]).rewards if names else graded.rewards
        sums = np.zeros(len(passes(n)) + 2)
        for start in range(0, len(completions), n):
            scores = [value or 0.0 for value in judged[start : start + n]]
            right = sum(score >= 1.0 for score in scores)
            elected = vote([self._data.answer_of(completion.text) for completion in completions[start : start + n]])
            sums += [
                *(pass_at_k(n, right, k) for k in passes(n)),
                0.0 if elected is None else scores[elected],
                sum(value or 0.0 for value in graded.rewards[start : start + n]) / n,
            ]
        return [*sums.tolist(), *self._kl(unit, completions)]

    def _kl(self, unit: _Unit, completions: list[Completion]) -> list[float]:
        """Sum of the KL estimate over the tokens of the samples, and the number of tokens."""
        if self._data.base is None:
            return [0.0, 0.0]
        engine, base = self._run.engine, self._data.base()
        assert isinstance(engine, LogProbs), "checked when the run was assembled"
        prompts = [row["prompt"] for row in self._rows(unit) for _ in range(self._samples)]
        size, temperature = self._run.config.prompts_per_unit, self._run.config.eval_temperature
        total, tokens = 0.0, 0
        for start in range(0, len(prompts), size):
            part = prompts[start : start + size], completions[start : start + size]
            own_probs = engine.log_probs(*part, temperature=temperature)
            base_probs = engine.log_probs(*part, base, temperature=temperature)
            for own, other in zip(own_probs, base_probs, strict=True):
                total += k3(own.tolist(), other.tolist())
                tokens += len(own)
        return [total, float(tokens)]

    def _begin(self, index: int) -> _Begun:
        unit, run = self._units[index], self._run
        rows, step = self._rows(unit), run.population.iteration
        if not unit.sampled:
            completions = self._complete(index)
            return _Begun(completions, run.rewards.submit(run.batch(rows, completions, step), metrics=True))
        completions = self._sample(unit)
        batch = run.batch([row for row in rows for _ in range(self._samples)], completions, step)
        if run.rewards.set_level:
            return _Begun(completions, SampledSets(run.rewards, batch, self._samples))
        return _Begun(completions, run.rewards.submit(batch, metrics=True))

    def _sample(self, unit: _Unit) -> list[Completion]:
        config = self._run.config
        addresses = [(row, sample) for row in unit.rows for sample in range(self._samples)]
        rows = [row for row in self._rows(unit) for _ in range(self._samples)]
        sampling = Sampling(temperature=config.eval_temperature, seed=config.seed, addresses=addresses)
        (completions,) = self._run.complete([None], rows, sampling)
        return completions

    def _answers(self, count: int) -> list[tuple[str, str]]:
        shown: list[tuple[str, str]] = []
        for index, unit in enumerate(self._units):
            if len(shown) >= count:
                break
            if not unit.sampled:
                texts = zip(self._rows(unit), self._complete(index), strict=True)
                shown += [(readable(row["prompt"]), completion.text) for row, completion in texts]
        return shown[:count]

    def _complete(self, index: int) -> list[Completion]:
        """The greedy completions of a unit. They depend on the whole unit, so it is always generated whole."""
        if index not in self._greedy:
            (self._greedy[index],) = self._run.complete([None], self._rows(self._units[index]))
        return self._greedy[index]

    def _units_of(self, name: str, rows: int) -> list[_Unit]:
        size = self._run.unit_rows(rows)
        units = [_Unit(name, part, False) for part in _parts(rows, size)]
        if self._samples:
            size = size if self._run.rewards.set_level else max(1, size // self._samples)
            units += [_Unit(name, part, True) for part in _parts(rows, size)]
        return units

    def _rows(self, unit: _Unit) -> Sequence[Row]:
        return self._data.sets[unit.name][unit.rows.start : unit.rows.stop]


def _parts(rows: int, size: int) -> list[range]:
    return [range(start, min(start + size, rows)) for start in range(0, rows, size)]
