"""Samples where a reward sees a member's completions together: the s-th samples of all rows are one set of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from es_llm.rewards.batch import Batch, Failure, RewardResult
from es_llm.rewards.reward_set import BatchRewards, PendingRewards, RewardSet

Item = TypeVar("Item")


class SampledSets:
    """B rows with n samples each, given row by row, rewarded as n sets of B; the rewards are row by row again."""

    def __init__(self, rewards: RewardSet, batch: Batch, samples: int) -> None:
        self._samples = samples
        self._sets: list[PendingRewards] = [
            rewards.submit(batch.part(slice(sample, None, samples)), metrics=True) for sample in range(samples)
        ]

    def result(self) -> BatchRewards:
        """The rewards of all samples, row by row. Waits until the workers have answered."""
        sets = [pending.result() for pending in self._sets]
        results = {name: self._woven([each.results[name] for each in sets]) for name in sets[0].results}
        return BatchRewards(rewards=_woven([each.rewards for each in sets]), results=results)

    def _woven(self, sets: Sequence[RewardResult]) -> RewardResult:
        columns = dict.fromkeys(column for result in sets for column in result.extra)
        nothing: list[Any] = [None] * len(sets[0].rewards)
        return RewardResult(
            rewards=_woven([result.rewards for result in sets]),
            failures=[
                Failure(failure.index * self._samples + sample, failure.kind, failure.reason)
                for sample, result in enumerate(sets)
                for failure in result.failures
            ],
            extra={column: _woven([result.extra.get(column, nothing) for result in sets]) for column in columns},
            metrics=[metric for result in sets for metric in result.metrics],
        )


def _woven(sets: Sequence[Sequence[Item]]) -> list[Item]:
    """n sequences of B items as one of B times n, row by row."""
    return [item for row in zip(*sets, strict=True) for item in row]
