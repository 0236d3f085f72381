"""The noise is standard normal and uncorrelated. Seeds are fixed, so every figure here is the same in every run."""

import math

import numpy as np
import pytest

from es_llm import _core

BINS_PER_UNIT = 1024
REACH = 8
DRAWS = 100_000_000
CHUNK = 4_000_000
SINE_WORDS, COSINE_WORDS = (0, 2), (1, 3)


def draw(count, **words):
    words = {"run_seed": 42, "iteration": 0, "pair": 0, "tensor": 0, "element": 0, **words}
    out = np.empty(count, np.float32)
    noise = _core.Noise(words["run_seed"], words["iteration"], words["pair"])
    _core.fill(out, noise, _core.Slice(words["tensor"], count, element=words["element"]))
    return out


@pytest.fixture(scope="module")
def tally():
    """Power sums (4,) and histograms of n0 (sine) and of n1 (cosine)."""
    powers = np.zeros(4)
    counts = np.zeros((2, 2 * REACH * BINS_PER_UNIT), np.int64)
    for element in range(0, DRAWS, CHUNK):
        values = draw(CHUNK, run_seed=2024, tensor=1, element=element)
        x = values.astype(np.float64)
        square = x * x
        powers += [x.sum(), square.sum(), square @ x, square @ square]
        bins = np.floor(values * np.float32(BINS_PER_UNIT)).astype(np.int32) + REACH * BINS_PER_UNIT
        for half in (0, 1):
            counts[half] += np.bincount(bins[half::2], minlength=counts.shape[1])
    return powers / DRAWS, counts


@pytest.mark.slow
def test_moments(tally):
    powers, _ = tally
    deviations = np.sqrt(np.array([1, 2, 15, 96]) / DRAWS)
    assert (np.abs(powers - [0, 1, 0, 3]) < 4 * deviations).all()


@pytest.mark.slow
@pytest.mark.parametrize("sigmas", [0.5, 1, 2, 3, 3.5, 4, 4.5, 5])
def test_tails(tally, sigmas):
    _, counts = tally
    middle, edge = REACH * BINS_PER_UNIT, int(sigmas * BINS_PER_UNIT)
    chance = math.erfc(sigmas / math.sqrt(2)) / 2
    expected, deviation = DRAWS * chance, math.sqrt(DRAWS * chance * (1 - chance))
    total = counts.sum(axis=0)
    for found in (total[: middle - edge].sum(), total[middle + edge :].sum()):
        assert abs(found - expected) < 4 * deviation + 1


@pytest.mark.slow
@pytest.mark.parametrize("half", [0, 1], ids=["sine", "cosine"])
def test_kolmogorov_smirnov(tally, half):
    """The largest difference between the distribution functions, at 16,384 edges, is below the bound for significance
    1e-3."""
    found = np.cumsum(tally[1][half])
    edges = (np.arange(1, len(found) + 1) / BINS_PER_UNIT - REACH) / math.sqrt(2)
    exact = np.array([math.erfc(-edge) / 2 for edge in edges])
    draws = DRAWS // 2
    assert found[-1] == draws
    assert np.abs(found / draws - exact).max() < 1.95 / math.sqrt(draws)


BASE = {"run_seed": 42, "iteration": 5, "pair": 6, "tensor": 7, "element": 0}
NEIGHBOURS = {
    "an equal-shaped tensor": {"tensor": 8},
    "tensor 0": {"tensor": 0},
    "the next pair": {"pair": 7},
    "the next iteration": {"iteration": 6},
    "pair and iteration exchanged": {"pair": 5, "iteration": 6},
    "the next run seed": {"run_seed": 43},
    "run seed 0": {"run_seed": 0},
    "a run seed that differs in its high half": {"run_seed": 42 + (1 << 32)},
    "the next value": {"element": 1},
    "the next block": {"element": 4},
    "the next tensor, shifted": {"tensor": 8, "element": 4},
    "the block after 2^32": {"element": 1 << 34},
    "the block that counts up into the tensor's bits": {"element": (1 << 42) - (1 << 20)},
}


@pytest.mark.parametrize("change", NEIGHBOURS.values(), ids=NEIGHBOURS)
def test_streams_are_uncorrelated(change):
    count = 1 << 20
    a, b = draw(count, **BASE), draw(count, **{**BASE, **change})
    assert abs(b.mean()) < 5 / math.sqrt(count)
    assert abs(b.std() - 1) < 5 / math.sqrt(2 * count)
    assert np.count_nonzero(a == b) < 10
    for x, y in ((a, b), (a * a - 1, b * b - 1), (a[:-1], b[1:]), (a[:-4], b[4:])):
        correlation = float(np.mean(x * y)) / (float(x.std()) * float(y.std()))
        assert abs(correlation) < 5 / math.sqrt(count)


def test_words_of_a_block_are_uncorrelated():
    values = draw(1 << 22, **BASE).reshape(-1, 4)
    bound = 5 / math.sqrt(len(values))
    for f in (values, np.abs(values), values**2):
        off_diagonal = np.corrcoef(f.T) - np.eye(4)
        assert np.abs(off_diagonal).max() < bound
