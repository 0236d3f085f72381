"""Counts of completions and rewards: whole numbers that are summed over units, so that the figures made from them are
equal however units were spread over ranks.

A reward counts as round(reward * 2^20), clamped to +-10^9, and its square likewise. Sums travel modulo 2^64. What
reward functions log themselves by `log_metric` travels as sums per unit.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from es_llm.rewards.batch import FAILURE_KINDS, RewardResult
from es_llm.rollout.engine import Completion

_SCALE: Final = 1 << 20
_LARGEST: Final = 1e9
_MODULUS: Final = 1 << 64


class Tally(NamedTuple):
    """The rewards of one function: their number, sum, sum of squares, and the failures of each of `FAILURE_KINDS`."""

    size: int = 0
    total: int = 0
    squares: int = 0
    failures: tuple[int, ...] = (0,) * len(FAILURE_KINDS)

    @staticmethod
    def of(result: RewardResult) -> Tally:
        """The tally of one function's rewards of a batch."""
        values = [value for value in result.rewards if value is not None]
        kinds = [failure.kind for failure in result.failures]
        return Tally(
            size=len(values),
            total=sum(map(_fixed, values)),
            squares=sum(_fixed(value * value) for value in values),
            failures=tuple(map(kinds.count, FAILURE_KINDS)),
        )

    def metrics(self, name: str) -> dict[str, float]:
        """Mean and standard deviation of the rewards under TRL's names, and the failures, if any, also by kind."""
        metrics: dict[str, float] = {}
        if self.size:
            mean, square = self.total / _SCALE / self.size, self.squares / _SCALE / self.size
            metrics[f"rewards/{name}/mean"] = mean
            metrics[f"rewards/{name}/std"] = max(0.0, square - mean * mean) ** 0.5
        if sum(self.failures):
            metrics[f"rewards/{name}/failures"] = sum(self.failures)
        named = zip(FAILURE_KINDS, self.failures, strict=True)
        return metrics | {f"rewards/{name}/failures/{kind}": count for kind, count in named if count}


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Counts of some completions.

    completions: their number.
    tokens: sum of their lengths.
    cut_off: how many the length limit ended.
    empty: how many have no text.
    waited_us: microseconds that their rewards were waited for.
    tallies: of each reward function, in order; empty for completions that don't count towards the functions' figures.
    """

    completions: int = 0
    tokens: int = 0
    cut_off: int = 0
    empty: int = 0
    waited_us: int = 0
    tallies: tuple[Tally, ...] = ()

    @staticmethod
    def of(completions: Sequence[Completion], results: Iterable[RewardResult] = ()) -> Counts:
        """The counts of one batch, with the rewards of each function."""
        return Counts(
            completions=len(completions),
            tokens=sum(len(completion.token_ids) for completion in completions),
            cut_off=sum(not completion.finished for completion in completions),
            empty=sum(not completion.text.strip() for completion in completions),
            tallies=tuple(map(Tally.of, results)),
        )

    @property
    def mean_length(self) -> float:
        """Tokens per completion."""
        return self.tokens / self.completions

    @property
    def clipped_ratio(self) -> float:
        """Share of completions that the length limit ended."""
        return self.cut_off / self.completions

    def reward_metrics(self, names: Sequence[str]) -> dict[str, float]:
        """The metrics of each reward function, by the names of the functions."""
        tallies = zip(names, self.tallies, strict=True)
        return {key: value for name, tally in tallies for key, value in tally.metrics(name).items()}


class CountsCodec:
    """Encode counts as the flat list of numbers that a rank sends.

    Args:
        functions: number of reward functions.
        groups: number of kinds of completions that are counted apart, such as the sets of an evaluation.
    """

    def __init__(self, functions: int, groups: int = 1) -> None:
        self._functions, self._groups = functions, groups
        self._width = len(_PLAIN) + functions * _TALLY_WIDTH

    def encode(self, *batches: Counts, group: int = 0) -> list[int]:
        """The sum of some counts of one group, as numbers in [0, 2**64). Trailing groups are left out."""
        totals = [sum(column) % _MODULUS for column in zip(*map(self._numbers, batches), strict=True)]
        return [0] * (group * self._width) + totals

    def decode(self, numbers: Sequence[int]) -> list[Counts]:
        """The counts of each group, from the sums over all units."""
        padded = [*numbers, *[0] * (self._groups * self._width - len(numbers))]
        return [self._counts(padded[start : start + self._width]) for start in range(0, len(padded), self._width)]

    def _numbers(self, counts: Counts) -> list[int]:
        tallies = counts.tallies or (Tally(),) * self._functions
        flat = [number for size, total, squares, kinds in tallies for number in (size, total, squares, *kinds)]
        return [*(getattr(counts, name) for name in _PLAIN), *flat]

    def _counts(self, numbers: Sequence[int]) -> Counts:
        tallies = []
        for start in range(len(_PLAIN), self._width, _TALLY_WIDTH):
            size, total, squares, *kinds = numbers[start : start + _TALLY_WIDTH]
            tallies.append(Tally(size, _signed(total), _signed(squares), tuple(kinds)))
        return Counts(**dict(zip(_PLAIN, numbers, strict=False)), tallies=tuple(tallies))


_PLAIN: Final = ("completions", "tokens", "cut_off", "empty", "waited_us")
_TALLY_WIDTH: Final = 3 + len(FAILURE_KINDS)


def _fixed(value: float) -> int:
    return round(max(-_LARGEST, min(_LARGEST, value)) * _SCALE)


def _signed(number: int) -> int:
    return number - _MODULUS if number >= _MODULUS // 2 else number


REFUSED: Final = "rewards/log_metric_refused"
"""Metric: number of values given to `log_metric` that were not finite."""
_LARGEST_LOGGED: Final = 1e300
"""A larger value counts as infinite, so that sums stay finite."""


def encode_logged(results: Iterable[RewardResult]) -> bytes:
    """What functions gave to `log_metric`, as JSON: name -> sum, number of values, number of values that were not
    finite; empty if they gave nothing."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0, 0])
    for each in results:
        for name, value in each.metrics:
            if abs(value) <= _LARGEST_LOGGED:  # not NaN
                sums[name][0] += value
                sums[name][1] += 1
            else:
                sums[name][2] += 1
    return json.dumps(sums).encode() if sums else b""


def logged_metrics(units: Iterable[bytes]) -> dict[str, float]:
    """The mean of each logged name over all units, and under `REFUSED` the number of values that were not finite."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0, 0])
    for text in units:
        for name, parts in json.loads(text).items():
            sums[name] = [total + part for total, part in zip(sums[name], parts, strict=True)]
    means = {name: total / count for name, (total, count, _) in sorted(sums.items()) if count}
    refused = sum(lost for _, _, lost in sums.values())
    return means | ({REFUSED: refused} if refused else {})


def with_logged(own: Mapping[str, Any], logged: Mapping[str, float], later: Sequence[str] = ()) -> dict[str, Any]:
    """The trainer's own metrics and those that functions logged.

    A function's metric whose name the trainer uses, or will use (`later`), gets the prefix `logged/`, so that it never
    replaces a metric of the trainer.
    """
    whole = dict(own)
    for name, value in logged.items():
        free = name
        while free in whole or free in later or (free.startswith("rewards/") and "/failures" in free):
            free = f"logged/{free}"
        whole[free] = value
    return whole
