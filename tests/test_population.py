"""The public ask / tell over arrays and modules."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from es_llm import Population
from es_llm._core import Noise, Slice
from es_llm.errors import ConfigError, JournalError, KernelError, PopulationError, ResumeError
from es_llm.noise import reference


def run(population, iterations, goal=1.0):
    for _ in range(iterations):
        population.tell([-float(np.sum((population.perturb(m) - goal) ** 2)) for m in population.ask()])
    return population.weights


def test_finds_the_minimum_of_a_quadratic():
    population = Population(np.zeros(16), population_size=32, sigma=0.05, learning_rate=0.05, seed=0)
    assert np.abs(run(population, 400) - 1.0).max() < 0.1
    assert population.iteration == 400


def test_perturb_and_tell_follow_the_papers_formulas():
    start = np.linspace(-1, 1, 10, dtype=np.float32)
    population = Population(start, population_size=4, sigma=0.1, learning_rate=0.3, seed=9)
    noise = [reference.values(Noise(9, 0, pair), Slice(0, 10)).astype(np.float64) for pair in range(4)]
    for member in population.ask():
        np.testing.assert_allclose(population.perturb(member), start + 0.1 * noise[member.index], rtol=1e-6)
    fitness = np.array([0.5, -1.0, 2.0, 0.25])
    population.tell(list(fitness))
    z = (fitness - fitness.mean()) / (fitness.std() + 1e-8)
    expected = start + 0.3 / 4 * sum(z[n] * noise[n] for n in range(4))
    np.testing.assert_allclose(population.weights, expected, rtol=1e-6, atol=1e-6)


def test_antithetic_members_mirror_each_other():
    population = Population(np.zeros(7), population_size=6, sigma=0.5, antithetic=True)
    members = population.ask()
    for plus, minus in zip(members[::2], members[1::2], strict=True):
        np.testing.assert_array_equal(population.perturb(plus), -population.perturb(minus))
    assert [member.pair for member in members] == [0, 0, 1, 1, 2, 2]


def test_arrays_of_one_shape_get_different_noise():
    population = Population({"a": np.zeros(1000), "b": np.zeros(1000)}, sigma=1.0)
    live = population.perturb(population.ask()[0])
    assert not np.any(live["a"] == live["b"])
    assert set(population.weights) == {"a", "b"}


def test_perturbing_leaves_the_weights_alone():
    given_weights = np.arange(6, dtype=np.float64).reshape(2, 3)
    population = Population(given_weights, sigma=1.0)
    for member in population.ask():
        population.perturb(member)[:] = 7
    np.testing.assert_array_equal(population.weights, given_weights)
    assert population.weights.shape == (2, 3)


def test_equal_fitness_moves_nothing():
    population = Population(np.ones(100), population_size=5)
    population.tell([0.1] * 5)
    np.testing.assert_array_equal(population.weights, np.ones(100, np.float32))


@given(st.integers(0, 2**64 - 1), st.permutations(range(6)))
@settings(max_examples=20, deadline=None)
def test_members_may_be_evaluated_in_any_order(seed, order):
    one, other = (Population(np.zeros(5), population_size=6, sigma=0.1, seed=seed) for _ in range(2))
    fitness = {m.index: float(one.perturb(m)[0]) for m in one.ask()}
    members = other.ask()
    shuffled = {members[i].index: float(other.perturb(members[i])[0]) for i in order}
    assert fitness == shuffled
    one.tell([fitness[n] for n in range(6)])
    other.tell([shuffled[n] for n in range(6)])
    assert one.weights.tobytes() == other.weights.tobytes()


def test_failed_members():
    population = Population(np.zeros(5), population_size=3, failure_policy="zero")
    record = population.tell([1.0, None, float("nan")])
    assert record.fitness == [1.0, None, None]
    assert list(record.coefficients[1:]) == [0.0, 0.0]
    population = Population(np.zeros(5), population_size=3, failure_policy="raise")
    with pytest.raises(PopulationError):
        population.tell([1.0, None, 2.0])
    with pytest.raises(PopulationError, match="3"):
        population.tell([1.0, 2.0])
    for wrong in (None, 3, ["a", "b", "c"]):
        with pytest.raises(PopulationError, match="must be a sequence of numbers"):
            population.tell(wrong)
    assert population.iteration == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_torch_module(dtype):
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 1)
    inputs = torch.randn(64, 3)
    targets = inputs @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.25
    kind = getattr(torch, dtype)

    @torch.no_grad()
    def loss():
        return float((module(inputs.to(kind)).float() - targets).square().mean())

    population = Population(module, population_size=32, sigma=0.05, learning_rate=0.05, seed=1, dtype=dtype)
    before = loss()
    for _ in range(150):
        fitness = []
        for member in population.ask():
            assert population.perturb(member) is module
            fitness.append(-loss())
        population.tell(fitness)
    assert population.weights is module
    assert module.weight.dtype == kind
    assert loss() < 0.05 * before


def test_a_population_continues_where_its_journal_ends(tmp_path):
    def make(**options):
        options = {"population_size": 4, "sigma": 0.1, "seed": 5, "journal": tmp_path / "run.es", **options}
        return Population(np.zeros(9), **options)

    whole = run(Population(np.zeros(9), population_size=4, sigma=0.1, seed=5), 6)
    run(make(), 2)
    with open(tmp_path / "run.es", "ab") as file:
        file.write(b"\x03torn")
    resumed = make()
    assert resumed.iteration == 2
    assert run(resumed, 4).tobytes() == whole.tobytes()
    with pytest.raises(ResumeError, match=r"config\.sigma"):
        make(sigma=0.2)
    (tmp_path / "run.es").write_bytes(b"something else")
    with pytest.raises(JournalError):
        make()


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        (np.array(["a"]), KernelError),
        (np.array([1j]), KernelError),
        (np.zeros(0), KernelError),
        (np.array([np.nan, 1.0]), KernelError),
        ({}, ConfigError),
        ({"a": [1.0]}, KernelError),
        ([1.0, 2.0], ConfigError),
    ],
)
def test_bad_weights(weights, error):
    with pytest.raises(error):
        Population(weights)


@pytest.mark.parametrize(
    "options", [{"sigma": 0}, {"population_size": 0}, {"shaping": "no"}, {"learning_rate": -1}, {"seed": -1}]
)
def test_bad_options(options):
    with pytest.raises(ConfigError):
        Population(np.zeros(3), **options)


def test_a_member_of_an_earlier_iteration_is_refused():
    population = Population(np.zeros(4), population_size=4, sigma=0.1, learning_rate=0.1)
    member = population.ask()[0]
    population.tell([1.0, 2.0, 3.0, 4.0])
    with pytest.raises(PopulationError, match="must be of this iteration, 1, got one of iteration 0"):
        population.perturb(member)
