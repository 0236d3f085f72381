"""Counts that ranks send, logged metrics, and units that are started in advance."""

import math

import pytest

from es_llm.rewards.batch import Failure, RewardResult
from es_llm.rollout.engine import Completion
from es_llm.units.counts import REFUSED, Counts, CountsCodec, encode_logged, logged_metrics, with_logged
from es_llm.units.run_state import Prefetcher

NAMES = ["f", "g"]


def completion(text="ab", finished=True):
    return Completion(text, tuple(map(ord, text)), finished)


def counts(f, g=(1.0, 2.0)):
    """Counts of two completions, the second one empty and cut off."""
    scores = [
        RewardResult([*values], [Failure(at, "timeout", "why") for at, value in enumerate(values) if value is None])
        for values in (f, g)
    ]
    return Counts.of([completion(), completion("", finished=False)], scores)


def summed(parts):
    """The sums of the counts of all units, as a table adds them: modulo 2**64, of lists of different lengths."""
    width = max(map(len, parts))
    return [sum(part[at] if at < len(part) else 0 for part in parts) % 2**64 for at in range(width)]


def test_counts_of_a_batch():
    known = counts((1.0, None))
    assert (known.completions, known.tokens, known.cut_off, known.empty) == (2, 2, 1, 1)
    assert known.mean_length == 1.0
    assert known.clipped_ratio == 0.5
    metrics = known.reward_metrics(NAMES)
    assert metrics["rewards/f/mean"] == 1.0
    assert metrics["rewards/f/failures"] == metrics["rewards/f/failures/timeout"] == 1
    assert metrics["rewards/g/std"] == 0.5
    assert "rewards/g/failures" not in metrics


def test_counts_are_encoded_and_summed():
    codec = CountsCodec(functions=2)
    parts = [codec.encode(counts((-1.0, 0.5))), codec.encode(counts((3.0, None))), codec.encode(Counts(waited_us=7))]
    assert all(0 <= number < 2**64 for part in parts for number in part)
    (total,) = codec.decode(summed(parts))
    assert (total.completions, total.tokens, total.waited_us) == (4, 4, 7)
    metrics = total.reward_metrics(NAMES)
    assert metrics["rewards/f/mean"] == pytest.approx(2.5 / 3)
    assert metrics["rewards/g/mean"] == 1.5
    assert codec.encode(counts((-1.0, 0.5)), counts((3.0, None)), Counts(waited_us=7)) == summed(parts)


def test_groups_are_counted_apart():
    codec = CountsCodec(functions=2, groups=3)
    parts = [codec.encode(counts((1.0, 1.0)), group=1), codec.encode(counts((-4.0, 1.0)), group=0)]
    first, second, third = codec.decode(summed(parts))
    assert first.reward_metrics(NAMES)["rewards/f/mean"] == -1.5
    assert second.reward_metrics(NAMES)["rewards/f/mean"] == 1.0
    assert third.completions == 0
    assert codec.decode([]) == [third] * 3


def test_a_score_out_of_range_is_clamped():
    (total,) = CountsCodec(2).decode(CountsCodec(2).encode(counts((1e300, -1e300))))
    metrics = total.reward_metrics(NAMES)
    assert metrics["rewards/f/mean"] == 0.0
    assert math.isfinite(metrics["rewards/f/std"])


def test_logged_figures_are_means_over_all_units():
    def unit(*pairs):
        return encode_logged([RewardResult([], metrics=list(pairs))])

    assert unit() == b""
    parts = [unit(("a", 1.0), ("b", math.nan)), unit(("a", 4.0), ("a", 1.0))]
    assert logged_metrics(parts) == {"a": 2.0, REFUSED: 1}
    assert with_logged({"a": 0}, {"a": 1, "b": 2, "c": 3}, later=["b"]) == {
        "a": 0,
        "logged/a": 1,
        "logged/b": 2,
        "c": 3,
    }


def test_the_next_unit_starts_while_one_is_scored():
    begun, upcoming = [], iter([1, 3, 3, None])
    prefetcher = Prefetcher(lambda unit: begun.append(unit) or unit, lambda: next(upcoming))
    assert prefetcher.take(0) == 0
    assert begun == [0, 1]
    assert prefetcher.take(2) == 2, "another rank took unit 1"
    assert begun == [0, 1, 2, 3]
    assert [prefetcher.take(3), prefetcher.take(1)] == [3, 1]
    assert begun == [0, 1, 2, 3, 1], "a unit that was begun in vain is begun again"
