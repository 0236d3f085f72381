"""Samples scored by set-level rewards: the s-th samples of all rows are one set of completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from es_llm.rewards.batch import Batch, Failure, Scores
from es_llm.rewards.scoring import Graded, Pending, RewardSet

Item = TypeVar("Item")


class SampledSets:
    """B rows with n samples each, row by row, scored as n sets of B completions; the scores are row by row again."""

    def __init__(self, rewards: RewardSet, batch: Batch, samples: int) -> None:
        self._samples = samples
        self._sets: list[Pending] = [
            rewards.submit(_every(batch, sample, samples), metrics=True) for sample in range(samples)
        ]

    def result(self) -> Graded:
        """Wait for the scores of all sets."""
        sets = [pending.result() for pending in self._sets]
        scores = {name: self._woven([graded.scores[name] for graded in sets]) for name in sets[0].scores}
        return Graded(totals=_woven([graded.totals for graded in sets]), scores=scores)

    def _woven(self, sets: Sequence[Scores]) -> Scores:
        columns = dict.fromkeys(column for scores in sets for column in scores.extra)
        nothing: list[Any] = [None] * len(sets[0].values)
        return Scores(
            values=_woven([scores.values for scores in sets]),
            failures=[
                Failure(failure.place * self._samples + sample, failure.kind, failure.why)
                for sample, scores in enumerate(sets)
                for failure in scores.failures
            ],
            extra={column: _woven([scores.extra.get(column, nothing) for scores in sets]) for column in columns},
            metrics=[figure for scores in sets for figure in scores.metrics],
        )


def _every(batch: Batch, sample: int, samples: int) -> Batch:
    """One sample of each row."""
    own = slice(sample, None, samples)
    return Batch(
        prompts=batch.prompts[own],
        completions=batch.completions[own],
        completion_ids=batch.completion_ids[own],
        columns={name: values[own] for name, values in batch.columns.items()},
        state=batch.state,
    )


def _woven(sets: Sequence[Sequence[Item]]) -> list[Item]:
    """n sequences of B items as one of B * n items, row by row."""
    return [item for row in zip(*sets, strict=True) for item in row]
