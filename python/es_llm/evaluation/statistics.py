"""Statistics of several samples per prompt."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from math import expm1
from typing import Final


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Chance that at least one of k samples is right, estimated without bias from n samples of which c are right.

    1 - C(n - c, k) / C(n, k) (Chen et al., arXiv 2107.03374, equation 1), as a product without large numbers.
    """
    missed = 1.0
    for i in range(samples - right + 1, samples + 1):
        missed *= max(0.0, 1.0 - k / i)
    return 1.0 - missed


def passes(samples: int) -> list[int]:
    """The k of the metrics pass@k: 1, 2, 4, ... up to the number of samples, and that number."""
    return sorted({*(1 << power for power in range(samples.bit_length()) if 1 << power <= samples), samples})


def vote(answers: Sequence[str | None]) -> int | None:
    """Index of the first sample with the most frequent answer; None if no sample has an answer.

    In a tie the answer that comes first wins.
    """
    counted = Counter(answer for answer in answers if answer is not None)
    if not counted:
        return None
    most = max(counted.values())
    return next(index for index, answer in enumerate(answers) if answer is not None and counted[answer] == most)


def k3(model_log_probs: Sequence[float], base_log_probs: Sequence[float]) -> float:
    """Sum over tokens of r - 1 - log r with r = p_base / p_model: Schulman's k3 estimator of KL(model || base), without
    bias where the tokens were drawn with these p_model.

    |log r| counts as `FARTHEST` at most, also where it is no number: the sum is finite for any models.
    """
    ratios = [_bounded(base - own) for own, base in zip(model_log_probs, base_log_probs, strict=True)]
    return sum(expm1(ratio) - ratio for ratio in ratios)


FARTHEST: Final = 200.0
"""Bound of a log ratio, in nats."""


def _bounded(log_ratio: float) -> float:
    return FARTHEST if math.isnan(log_ratio) else max(-FARTHEST, min(FARTHEST, log_ratio))
