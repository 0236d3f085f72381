"""Members, shaping, ask / tell / apply and the fitness table, through the bindings."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_llm._core import FitnessTable, Population
from es_llm.errors import ConfigError, PopulationError

FITNESS = st.lists(st.none() | st.floats(-1e6, 1e6), min_size=2, max_size=40)


def zscores(values):
    """The paper's formula, written once more: (R - mean) / (std + 1e-8), population std."""
    values = np.array(values, np.float64)
    return (values - values.mean()) / (values.std() + 1e-8)


def test_members_of_a_plain_and_of_an_antithetic_population():
    plain = Population(run_seed=1, population_size=3).ask()
    assert [(m.iteration, m.index, m.pair, m.sign) for m in plain] == [(0, 0, 0, 1), (0, 1, 1, 1), (0, 2, 2, 1)]
    mirrored = Population(run_seed=1, population_size=4, antithetic=True)
    assert mirrored.pairs == 2
    assert [(m.pair, m.sign) for m in mirrored.ask()] == [(0, 1), (0, -1), (1, 1), (1, -1)]
    assert repr(mirrored.ask()[3]) == "Member(iteration=0, index=3, pair=1, sign=-1)"


@pytest.mark.parametrize("arguments", [{"population_size": 1}, {"population_size": 3, "antithetic": True}])
def test_impossible_sizes_are_refused(arguments):
    with pytest.raises(PopulationError, match="population_size"):
        Population(run_seed=0, **arguments)


@pytest.mark.parametrize("arguments", [{"shaping": "rank"}, {"failure_policy": "ignore"}])
def test_unknown_names_are_config_errors(arguments):
    with pytest.raises(ConfigError, match=r'got "(rank|ignore)"'):
        Population(run_seed=0, population_size=2, **arguments)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=40))
def test_zscore_coefficients_follow_the_paper(fitness):
    population = Population(run_seed=0, population_size=len(fitness))
    record = population.tell(fitness, sigma=1e-3, learning_rate=5e-4)
    if len(set(fitness)) == 1:
        assert not record.coefficients.any()
    else:
        expected = 5e-4 / len(fitness) * zscores(fitness)
        np.testing.assert_allclose(record.coefficients, expected, rtol=1e-5, atol=1e-11)
    assert record.coefficients.dtype == np.float32
    assert record.pairs == list(range(len(fitness)))


def test_centered_ranks_share_ties():
    population = Population(run_seed=0, population_size=4, shaping="centered_rank")
    record = population.tell([5.0, 1.0, 5.0, 9.0], sigma=1e-3, learning_rate=4.0)
    assert record.coefficients.tolist() == [0.0, -0.5, 0.0, 0.5]


@given(FITNESS, st.sampled_from(["zscore", "centered_rank"]), st.sampled_from(["zero", "worst", "drop_prompt"]))
def test_whatever_fails_coefficients_are_finite_and_telling_is_pure(fitness, shaping, policy):
    population = Population(run_seed=0, population_size=len(fitness), shaping=shaping, failure_policy=policy)
    told = [math.nan if value is None else value for value in fitness]
    record = population.tell(told, sigma=1e-3, learning_rate=5e-4)
    assert record == population.tell(fitness, sigma=1e-3, learning_rate=5e-4)
    assert record != population.tell(fitness, sigma=1e-3, learning_rate=5e-4, cursor=1)
    assert population.iteration == 0
    assert record.fitness == fitness
    assert np.isfinite(record.coefficients).all()
    if policy != "worst":
        failed = [value is None for value in fitness]
        assert not record.coefficients[failed].any()


@given(FITNESS)
def test_worst_is_the_same_as_telling_the_smallest_fitness(fitness):
    alive = [value for value in fitness if value is not None]
    filled = [min(alive, default=0.0) if value is None else value for value in fitness]
    population = Population(run_seed=0, population_size=len(fitness), failure_policy="worst")
    one, other = (population.tell(values, sigma=1e-3, learning_rate=5e-4) for values in (fitness, filled))
    assert one.coefficients.tobytes() == other.coefficients.tobytes()


def test_raise_names_the_failed_member():
    population = Population(run_seed=0, population_size=3, failure_policy="raise")
    with pytest.raises(PopulationError, match="1 of 3 members failed, the first is member 2"):
        population.tell([1.0, 2.0, None], sigma=1e-3, learning_rate=5e-4)


@pytest.mark.parametrize("bad", [0.0, -0.1, math.nan, math.inf, 1e-60])
def test_scales_must_be_positive_float32(bad):
    population = Population(run_seed=0, population_size=2)
    with pytest.raises(PopulationError, match="sigma"):
        population.tell([1.0, 2.0], sigma=bad, learning_rate=1.0)
    with pytest.raises(PopulationError, match="learning_rate"):
        population.tell([1.0, 2.0], sigma=1.0, learning_rate=bad)


def test_apply_takes_each_record_once():
    population = Population(run_seed=2**64 - 1, population_size=2)
    record = population.tell([1.0, 2.0], sigma=1e-3, learning_rate=5e-4, cursor=7)
    population.apply(record)
    assert (population.run_seed, population.iteration, record.cursor) == (2**64 - 1, 1, 7)
    assert {member.iteration for member in population.ask()} == {1}
    with pytest.raises(PopulationError, match="expected a record of iteration 1, got one of iteration 0"):
        population.apply(record)
    with pytest.raises(PopulationError, match="2 members, this population has 3"):
        Population(run_seed=0, population_size=3).apply(record)
    with pytest.raises(PopulationError, match="expected 2, got 3"):
        population.tell([1.0, 2.0, 3.0], sigma=1e-3, learning_rate=5e-4)


def test_a_table_takes_each_cell_once():
    table = FitnessTable(2, 2)
    table.set(1, 1, 4.0)
    with pytest.raises(PopulationError, match=r"\(member 1, prompt 1\) was filled before"):
        table.set(1, 1, 4.0)
    with pytest.raises(PopulationError, match="outside"):
        table.set(2, 0, 4.0)
    with pytest.raises(PopulationError, match="3 of 4 cells are empty"):
        table.fitness("zero")
    with pytest.raises(PopulationError, match="filled before"):
        table.fill(np.zeros((2, 2)))
    with pytest.raises(PopulationError, match=r"\(2, 2\), got \(2, 3\)"):
        FitnessTable(2, 2).fill(np.zeros((2, 3)))
    with pytest.raises(PopulationError, match="at least 1 member"):
        FitnessTable(0, 2)


def test_a_table_follows_the_policy():
    table = FitnessTable(2, 2)
    for member, row in enumerate([[1.0, None], [-2.0, 4.0]]):
        for prompt, reward in enumerate(row):
            table.set(member, prompt, reward)
    assert table.complete
    assert table.failures == 1
    assert table.fitness("zero") == [0.5, 1.0]
    assert table.fitness("worst") == [-0.5, 1.0]
    assert table.fitness("drop_prompt") == [1.0, -2.0]
    with pytest.raises(PopulationError, match=r"1 of 4 rewards failed, the first is \(member 0, prompt 1\)"):
        table.fitness("raise")
    with pytest.raises(ConfigError, match="failure_policy"):
        table.fitness("ignore")
    np.testing.assert_array_equal(table.rewards(), [[1.0, np.nan], [-2.0, 4.0]])


@given(st.integers(1, 6), st.integers(1, 6), st.randoms(use_true_random=False))
def test_cells_one_by_one_in_any_order_equal_all_at_once(members, prompts, random):
    rewards = np.array([[random.uniform(-1, 1) for _ in range(prompts)] for _ in range(members)])
    rewards[random.randrange(members), random.randrange(prompts)] = random.choice([np.nan, np.inf, 0.0])
    at_once, one_by_one = FitnessTable(members, prompts), FitnessTable(members, prompts)
    at_once.fill(np.asfortranarray(rewards))
    cells = list(np.ndindex(members, prompts))
    random.shuffle(cells)
    for member, prompt in cells:
        one_by_one.set(member, prompt, rewards[member, prompt])
    for policy in ("zero", "worst", "drop_prompt"):
        assert at_once.fitness(policy) == one_by_one.fitness(policy)
