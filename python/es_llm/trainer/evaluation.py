"""Evaluation of the unperturbed weights on held-out rows, spread over the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from es_llm._core import plan_units
from es_llm.rewards.batch import Batch
from es_llm.rewards.scoring import Pending, metric_scores
from es_llm.rollout.engine import Completion
from es_llm.team import Outcome, Round, Table
from es_llm.trainer.ahead import Ahead
from es_llm.trainer.state import RunState
from es_llm.trainer.tally import encode_logged, logged_metrics, reward_metrics, tally
from es_llm.types import Row


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics (means over the rows) and, on the leader, the first few answers as (prompt, completion) texts."""

    metrics: dict[str, float]
    answers: list[tuple[str, str]] = field(default_factory=list)


class EvaluationWork:
    """Answers `rows` with round(master) and scores them; the same figures on any number of ranks.

    Metrics: one per metric function, then `reward`, `completions/mean_length` (tokens) and `completions/clipped_ratio`
    (share cut off by `max_completion_length`), and each reward function's own. A score that failed counts as 0.

    Args:
        run: the model, its engine, its rewards and metrics.
        rows: at least one.
        round_: the round that it is.
    """

    def __init__(self, run: RunState, rows: Sequence[Row], round_: Round) -> None:
        self._run, self._rows = run, rows
        self._units = plan_units(1, len(rows), run.unit_rows(len(rows)))
        self._seen: dict[int, list[Completion]] = {}
        self._ahead = Ahead(self._begin, lambda: run.team.upcoming(round_))
        self._live = False

    @property
    def costs(self) -> list[float]:
        """Expected cost of each unit: its rows."""
        return [float(unit.stop - unit.start) for unit in self._units]

    def evaluate(self, index: int) -> Outcome:
        """Of one unit: the sum of each metric; and tokens, completions cut off, all, and the functions' tallies."""
        run, pending = self._run, self._ahead.take(index)
        graded, completions = pending.result(), self._complete(index)
        columns = [metric_scores(graded, name).values for name in run.rewards.metric_names]
        columns.append(graded.totals)
        sums = [float(np.nan_to_num(np.array(column, np.float64), nan=0.0).sum()) for column in columns]
        scores = [graded.scores[name] for name in run.rewards.names]
        tokens = sum(len(completion.token_ids) for completion in completions)
        clipped = sum(not completion.finished for completion in completions)
        return Outcome(sums, [tokens, clipped, len(completions), *tally(scores)], encode_logged(scores))

    def result(self, table: Table, answers: int) -> Evaluation:
        """The means over all rows, with the first `answers` answers (made anew if another rank made them)."""
        rows, rewards = len(self._rows), self._run.rewards
        sums = np.zeros(len(rewards.metric_names) + 1)
        for values in table.values:
            sums += values
        tokens, clipped, _, *tallies = table.counts
        names = [*rewards.metric_names, "reward", "completions/mean_length", "completions/clipped_ratio"]
        means = [*(sums / rows), tokens / rows, clipped / rows]
        metrics = {name: float(mean) for name, mean in zip(names, means, strict=True)}
        own = reward_metrics(rewards.names, tallies)
        if len(rewards.names) == 1:  # its mean is the reward
            own = {name: value for name, value in own.items() if "/failures" in name}
        metrics |= own | logged_metrics(table.figures)
        return Evaluation(metrics=metrics, answers=self._answers(answers))

    def _begin(self, index: int) -> Pending:
        completions = self._complete(index)
        texts, ids = [c.text for c in completions], [c.token_ids for c in completions]
        batch = Batch.of(self._part(index), texts, ids, self._run.state(self._run.population.iteration))
        return self._run.rewards.submit(batch, metrics=True)

    def _answers(self, count: int) -> list[tuple[str, str]]:
        shown: list[tuple[str, str]] = []
        for index in range(len(self._units)):
            if len(shown) >= count:
                break
            texts = zip(self._part(index), self._complete(index), strict=True)
            shown += [(str(row["prompt"]), completion.text) for row, completion in texts]
        return shown[:count]

    def _complete(self, index: int) -> list[Completion]:
        """The completions of a unit: what they are depends on the whole unit, so it is always made whole."""
        if index not in self._seen:
            if not self._live:
                self._run.weights.unperturb()
                self._run.engine.weights_changed()
                self._live = True
            self._seen[index] = self._run.complete(self._part(index))
        return self._seen[index]

    def _part(self, index: int) -> Sequence[Row]:
        unit = self._units[index]
        return self._rows[unit.start : unit.stop]
