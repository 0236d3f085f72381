"""Evaluation of the unperturbed weights on held-out rows, spread over the ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from es_llm._core import plan_units
from es_llm.rewards.scoring import Batch, call_reward
from es_llm.rollout.engine import Completion
from es_llm.team import Outcome, Table
from es_llm.trainer.state import RunState
from es_llm.types import RewardFunction, Row


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics (means over the rows) and, on the leader, the first few answers as (prompt, completion) texts."""

    metrics: dict[str, float]
    answers: list[tuple[str, str]] = field(default_factory=list)


class EvaluationWork:
    """Answers `rows` with round(master) and scores them; the same figures on any number of ranks.

    Metrics: one per function of `metric_funcs`, then `reward`, `completions/mean_length` (tokens) and
    `completions/clipped_ratio` (share cut off by `max_completion_length`). A score that failed counts as 0.
    """

    def __init__(self, run: RunState, rows: Sequence[Row], metric_funcs: Mapping[str, RewardFunction]) -> None:
        self._run, self._rows, self._metric_funcs = run, rows, metric_funcs
        self._units = plan_units(1, len(rows), run.config.prompts_per_unit)
        self._seen: dict[int, list[Completion]] = {}
        self._live = False

    @property
    def costs(self) -> list[float]:
        """Expected cost of each unit: its rows."""
        return [float(unit.stop - unit.start) for unit in self._units]

    def evaluate(self, index: int) -> Outcome:
        """Of one unit: the sum of each metric; and tokens, completions cut off, completions."""
        completions = self._complete(index)
        rows = self._part(index)
        batch = Batch.of(rows, [c.text for c in completions], [c.token_ids for c in completions])
        columns = [call_reward(name, function, batch)[0] for name, function in self._metric_funcs.items()]
        columns.append(self._run.rewards.score(batch))
        sums = [float(np.nan_to_num(np.array(column, np.float64), nan=0.0).sum()) for column in columns]
        tokens = sum(len(completion.token_ids) for completion in completions)
        return Outcome(sums, [tokens, sum(not completion.finished for completion in completions), len(completions)])

    def result(self, table: Table, answers: int) -> Evaluation:
        """The means over all rows, with the first `answers` answers (made anew if another rank made them)."""
        rows = len(self._rows)
        sums = np.zeros(len(self._metric_funcs) + 1)
        for values in table.values:
            sums += values
        tokens, clipped, _ = table.counts
        names = [*self._metric_funcs, "reward", "completions/mean_length", "completions/clipped_ratio"]
        means = [*(sums / rows), tokens / rows, clipped / rows]
        metrics = {name: float(mean) for name, mean in zip(names, means, strict=True)}
        return Evaluation(metrics=metrics, answers=self._answers(answers))

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
            self._seen[index] = self._run.engine.evaluate([row["prompt"] for row in self._part(index)])
        return self._seen[index]

    def _part(self, index: int) -> Sequence[Row]:
        unit = self._units[index]
        return self._rows[unit.start : unit.stop]
