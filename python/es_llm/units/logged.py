"""Figures that reward functions log themselves by `log_metric`: sums per unit that travel, then means."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from es_llm.rewards.batch import RewardResult

REFUSED: Final = "rewards/log_metric_refused"
"""Metric: number of values given to `log_metric` that were not finite."""
_LARGEST: Final = 1e300
"""A larger value counts as infinite, so that sums stay finite."""


def encode_logged(results: Iterable[RewardResult]) -> bytes:
    """What functions gave to `log_metric`, as JSON: name -> sum, number of values, number of values that were not
    finite; empty if they gave nothing."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0, 0])
    for each in results:
        for name, value in each.metrics:
            if abs(value) <= _LARGEST:  # not NaN
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
