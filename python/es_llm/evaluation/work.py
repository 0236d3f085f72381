"""Evaluation of the unperturbed weights on held-out rows, spread over the ranks; equal figures however many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from es_llm._core import plan_units
from es_llm.data.messages import readable
from es_llm.evaluation.sampled_sets import SampledSets
from es_llm.evaluation.statistics import k3, pass_at_k, passes, vote
from es_llm.rewards.batch import Batch
from es_llm.rewards.scoring import Graded, Pending, metric_scores
from es_llm.rollout.engine import Completion
from es_llm.team import Outcome, Round, Table
from es_llm.types import Row
from es_llm.units.counts import encode_logged, logged_metrics, reward_metrics, tally, width, with_logged
from es_llm.units.prefetcher import Ahead
from es_llm.units.run_state import RunState


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics (means over the rows) and, on the leader, the first few answers as (prompt, completion) texts."""

    metrics: dict[str, float]
    answers: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class EvaluationSets:
    """What is evaluated.

    sets: name -> rows; the name "" has its metrics without a prefix.
    answer_of: the answer in a completion, as votes count it; None: there is none.
    base: gives the base model, for the KL to it; None: it isn't asked for.
    """

    sets: Mapping[str, Sequence[Row]]
    answer_of: Callable[[str], str | None] = str.strip
    base: Callable[[], Any] | None = None


class _Unit(NamedTuple):
    name: str
    start: int
    stop: int
    sampled: bool


class _Begun(NamedTuple):
    completions: list[Completion]
    pending: Pending | SampledSets


class EvaluationWork:
    """Answers rows with round(master) and scores them.

    Metrics of each set, greedy: one per metric function (pass@1, where that is 0 or 1), `reward`,
    `completions/mean_length` (tokens), `completions/clipped_ratio` (share cut off by `max_completion_length`), and each
    reward function's own. With `eval_num_samples` n: `pass@k` for k = 1, 2, 4, ... n, `vote` (score of the majority's
    answer), `sampled_reward`, `sampled_mean_length`, and, if asked for, `kl` (k3 estimate per token of
    KL(model || base) over the samples, both at the temperature of the samples). A sample is right if its score by the
    first metric, else its reward, is at least 1. A score that failed counts as 0. Functions of whole sets see n sets:
    the first sample of each row, the second one, and so on.

    Args:
        run: the model, its engine, its rewards and metrics.
        data: at least one row in each set.
        round_: the round that it is.
        keep: gets each graded batch that this rank made: (set, rows, samples, completions, scores).
    """

    def __init__(self, run: RunState, data: EvaluationSets, round_: Round, keep: Keep | None = None) -> None:
        self._run, self._data, self._keep = run, data, keep
        self._samples = run.config.eval_num_samples
        self._units = [unit for name, rows in data.sets.items() for unit in self._units_of(name, len(rows))]
        self._greedy: dict[int, list[Completion]] = {}
        self._ahead = Ahead(self._begin, lambda: run.team.upcoming(round_))
        self._live = False
        functions = width(len(run.rewards.names))
        self._counts = 3 + functions + 3

    @property
    def costs(self) -> list[float]:
        """Expected cost of each unit: its completions."""
        return [float((unit.stop - unit.start) * (self._samples if unit.sampled else 1)) for unit in self._units]

    def evaluate(self, index: int) -> Outcome:
        """Sums over one unit's rows of what `EvaluationWork` lists; counts are placed by set."""
        unit, begun = self._units[index], self._ahead.take(index)
        graded, completions = begun.pending.result(), begun.completions
        if self._keep is not None:
            self._keep(unit.name, self._rows(unit), self._samples if unit.sampled else 0, completions, graded)
        tokens = sum(len(completion.token_ids) for completion in completions)
        clipped = sum(not completion.finished for completion in completions)
        counts = [tokens, clipped, len(completions)]
        place = list(self._data.sets).index(unit.name) * self._counts
        if unit.sampled:
            padding = [0] * (place + self._counts - 3)
            return Outcome(self._sampled(unit, completions, graded), [*padding, *counts])
        names = self._run.rewards.names
        columns = [metric_scores(graded, name).values for name in self._run.rewards.metric_names]
        sums = [float(np.nan_to_num(np.array(column, np.float64)).sum()) for column in (*columns, graded.totals)]
        scores = [graded.scores[name] for name in names]
        return Outcome(sums, [*[0] * place, *counts, *tally(scores)], encode_logged(scores))

    def result(self, table: Table, answers: int) -> Evaluation:
        """The means over all rows, with the first `answers` answers (made anew if another rank made them)."""
        metrics: dict[str, float] = {}
        for number, (name, rows) in enumerate(self._data.sets.items()):
            values: dict[bool, Any] = {}
            for unit, told in zip(self._units, table.values, strict=True):
                if unit.name == name:
                    values[unit.sampled] = values.get(unit.sampled, 0.0) + np.array(told)
            counts = table.counts[number * self._counts : (number + 1) * self._counts]
            counts += [0] * (self._counts - len(counts))
            prefix = f"{name}_" if name else ""
            figures = self._means(values, counts, len(rows))
            metrics |= {f"{prefix}{key}": float(value) for key, value in figures.items()}
        metrics = with_logged(metrics, logged_metrics(table.figures), ("seconds",))
        return Evaluation(metrics=metrics, answers=self._answers(answers))

    def _means(self, values: dict[bool, Any], counts: list[int], rows: int) -> dict[str, float]:
        rewards = self._run.rewards
        tokens, clipped, all_, *tallies = counts[:-3]
        names = [*rewards.metric_names, "reward"]
        means = dict(zip(names, values[False] / rows, strict=True))
        means |= {"completions/mean_length": tokens / all_, "completions/clipped_ratio": clipped / all_}
        own = reward_metrics(rewards.names, tallies)
        if len(rewards.names) == 1:  # its mean is the reward
            own = {name: value for name, value in own.items() if "/failures" in name}
        means |= own
        if self._samples:
            *told, kl, kl_tokens = values[True]
            names = [*(f"pass@{k}" for k in passes(self._samples)), "vote", "sampled_reward"]
            means |= dict(zip(names, np.array(told) / rows, strict=True))
            means["sampled_mean_length"] = counts[-3] / counts[-1]
            if self._data.base is not None:
                means["kl"] = kl / max(1.0, kl_tokens)
        return means

    def _sampled(self, unit: _Unit, completions: list[Completion], graded: Graded) -> list[float]:
        """Sums over rows: pass@k of each k, vote, mean reward; then the sum of k3 and the tokens it is over."""
        names, n = self._run.rewards.metric_names, self._samples
        judged = metric_scores(graded, names[0]).values if names else graded.totals
        sums = np.zeros(len(passes(n)) + 2)
        for start in range(0, len(completions), n):
            scores = [value or 0.0 for value in judged[start : start + n]]
            right = sum(score >= 1.0 for score in scores)
            answers = [self._data.answer_of(completion.text) for completion in completions[start : start + n]]
            elected = vote(answers)
            sums += [
                *(pass_at_k(n, right, k) for k in passes(n)),
                0.0 if elected is None else scores[elected],
                sum(value or 0.0 for value in graded.totals[start : start + n]) / n,
            ]
        return [*sums.tolist(), *self._kl(unit, completions)]

    def _kl(self, unit: _Unit, completions: list[Completion]) -> list[float]:
        if self._data.base is None:
            return [0.0, 0.0]
        self._prepare()  # the unit that was begun meanwhile has the same weights
        engine, base = self._run.engine, self._data.base()
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
        unit = self._units[index]
        rows, run = self._rows(unit), self._run
        if unit.sampled:
            rows = [row for row in rows for _ in range(self._samples)]
            completions = self._sample(unit)
        else:
            completions = self._complete(index)
        texts, ids = [c.text for c in completions], [c.token_ids for c in completions]
        batch = Batch.of(rows, texts, ids, run.state(run.population.iteration))
        if unit.sampled and run.rewards.set_level:
            return _Begun(completions, SampledSets(run.rewards, batch, self._samples))
        return _Begun(completions, run.rewards.submit(batch, metrics=True))

    def _sample(self, unit: _Unit) -> list[Completion]:
        self._prepare()
        config, engine = self._run.config, self._run.engine
        places = [(row, sample) for row in range(unit.start, unit.stop) for sample in range(self._samples)]
        prompts = [row["prompt"] for row in self._rows(unit) for _ in range(self._samples)]
        made: list[Completion] = []
        for start in range(0, len(places), config.prompts_per_unit):
            part = slice(start, start + config.prompts_per_unit)
            made += engine.sample(prompts[part], places[part], seed=config.seed, temperature=config.eval_temperature)
        return made

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
        """The completions of a unit: what they are depends on the whole unit, so it is always made whole."""
        if index not in self._greedy:
            self._prepare()
            self._greedy[index] = self._run.complete(self._rows(self._units[index]))
        return self._greedy[index]

    def _prepare(self) -> None:
        if not self._live:
            self._run.weights.unperturb()
            self._run.engine.weights_changed()
            self._live = True

    def _units_of(self, name: str, rows: int) -> list[_Unit]:
        size = self._run.unit_rows(rows)
        units = [_Unit(name, unit.start, unit.stop, False) for unit in plan_units(1, rows, size)]
        if self._samples:
            size = size if self._run.rewards.set_level else max(1, size // self._samples)
            units += [_Unit(name, unit.start, unit.stop, True) for unit in plan_units(1, rows, size)]
        return units

    def _rows(self, unit: _Unit) -> Sequence[Row]:
        return self._data.sets[unit.name][unit.start : unit.stop]


Keep = Callable[[str, Sequence[Row], int, list[Completion], Graded], None]
