"""What rewards came to, as numbers that travel: whole numbers that are summed up over units, so that the figures are
equal however the units were spread, and the named figures that functions log themselves.

A score counts as round(score * 2^20), clamped at +-10^9, its square likewise.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from es_llm.rewards.batch import FAILURE_KINDS, Scores

_SCALE: Final = 1 << 20
_LARGEST: Final = 1e9
_WIDTH: Final = 3 + len(FAILURE_KINDS)
"""Of each function: scores, their sum, the sum of their squares, failures of each kind."""


def tally(scores: Iterable[Scores]) -> list[int]:
    """Counts of some functions' scores, in order, each in [0, 2**64)."""
    counts: list[int] = []
    for told in scores:
        values = [value for value in told.values if value is not None]
        kinds = [failure.kind for failure in told.failures]
        counts += [len(values), sum(map(_fixed, values)), sum(_fixed(value * value) for value in values)]
        counts += [kinds.count(kind) for kind in FAILURE_KINDS]
    return [count % 2**64 for count in counts]


def reward_metrics(names: Sequence[str], counts: Sequence[int]) -> dict[str, float]:
    """Of summed counts: mean and standard deviation of each function's scores under TRL's names, and its failures, if
    there are any, also by kind."""
    metrics: dict[str, float] = {}
    for place, name in enumerate(names):
        size, total, squares, *kinds = counts[place * _WIDTH : (place + 1) * _WIDTH]
        if size:
            mean, square = _float(total) / size, _float(squares) / size
            metrics[f"rewards/{name}/mean"] = mean
            metrics[f"rewards/{name}/std"] = max(0.0, square - mean * mean) ** 0.5
        if sum(kinds):
            metrics[f"rewards/{name}/failures"] = sum(kinds)
        metrics |= {
            f"rewards/{name}/failures/{kind}": count for kind, count in zip(FAILURE_KINDS, kinds, strict=True) if count
        }
    return metrics


def width(functions: int) -> int:
    """How many counts so many functions have."""
    return functions * _WIDTH


def encode_logged(scores: Iterable[Scores]) -> bytes:
    """What functions gave to `log_metric`: of each name the sum and the number of its values, and how many weren't
    finite numbers; empty without any."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0, 0])
    for told in scores:
        for name, value in told.metrics:
            if abs(value) <= _LARGEST_LOGGED:  # not NaN
                sums[name][0] += value
                sums[name][1] += 1
            else:
                sums[name][2] += 1
    return json.dumps(sums).encode() if sums else b""


def logged_metrics(figures: Iterable[tuple[int, bytes]]) -> dict[str, float]:
    """The means of what was logged, over all units, and under `REFUSED` how many values weren't finite numbers."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0, 0])
    for _, text in figures:
        for name, parts in json.loads(text).items():
            for place, part in enumerate(parts):
                sums[name][place] += part
    means = {name: total / count for name, (total, count, _) in sorted(sums.items()) if count}
    refused = sum(lost for _, _, lost in sums.values())
    return means | ({REFUSED: refused} if refused else {})


def with_logged(own: Mapping[str, Any], logged: Mapping[str, float], later: Sequence[str] = ()) -> dict[str, Any]:
    """The trainer's own figures and those that functions logged. A name that the trainer uses, or will use (`later`),
    is led by `logged/`: what a function logs never stands in the place of a figure of the trainer's."""
    whole = dict(own)
    for name, value in logged.items():
        free = name
        while free in whole or free in later or (free.startswith("rewards/") and "/failures" in free):
            free = f"logged/{free}"
        whole[free] = value
    return whole


REFUSED: Final = "rewards/log_metric_refused"
"""How many values that functions gave to `log_metric` were no finite numbers."""
_LARGEST_LOGGED: Final = 1e300
"""A larger figure counts as infinite: sums stay finite."""


def _fixed(value: float) -> int:
    return round(max(-_LARGEST, min(_LARGEST, value)) * _SCALE)


def _float(count: int) -> float:
    signed = count - 2**64 if count >= 2**63 else count
    return signed / _SCALE
