"""Members, shaping, ask / tell / apply and the fitness table, through the bindings."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from es_llm._core import FAILURE_POLICIES, SHAPING_RULES, FitnessTable, Population, plan_units, unit_sums
from es_llm.errors import ConfigError, PopulationError

FITNESS = st.lists(st.none() | st.floats(-1e6, 1e6), min_size=2, max_size=40)


def zscores(values):
    """The paper's formula, written once more: (R - mean) / (std + 1e-8), population std."""
    values = np.array(values, np.float64)
    return (values - values.mean()) / (values.std() + 1e-8)


def test_members_of_a_plain_and_of_an_antithetic_population():
    plain = Population(run_seed=1, population_size=3).ask(sigma=0.5)
    assert [(m.iteration, m.index, m.pair, m.sign) for m in plain] == [(0, 0, 0, 1), (0, 1, 1, 1), (0, 2, 2, 1)]
    mirrored = Population(run_seed=1, population_size=4, antithetic=True)
    assert [(m.pair, m.sign) for m in mirrored.ask(sigma=0.5)] == [(0, 1), (0, -1), (1, 1), (1, -1)]
    member = mirrored.ask(sigma=0.5)[3]
    assert repr(member) == "Member(run_seed=1, iteration=0, index=3, pair=1, sign=-1, sigma=0.5)"
    assert member == mirrored.ask(sigma=0.5)[3] != mirrored.ask(sigma=0.25)[3]


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
        np.testing.assert_allclose(record.coefficients, zscores(fitness), rtol=1e-5, atol=1e-11)
    assert (record.coefficients.dtype, record.coefficients.shape) == (np.float64, (len(fitness),))
    steps = record.sgd_coefficients()
    assert steps.dtype == np.float32
    np.testing.assert_array_equal(steps, (5e-4 / len(fitness) * record.coefficients).astype(np.float32))


def test_centered_ranks_share_ties():
    population = Population(run_seed=0, population_size=4, shaping="centered_rank")
    record = population.tell([5.0, 1.0, 5.0, 9.0], sigma=1e-3, learning_rate=4.0)
    assert record.coefficients.tolist() == [0.0, -0.5, 0.0, 0.5]


def test_names_exist_once_and_every_name_works():
    for rule in SHAPING_RULES:
        Population(run_seed=0, population_size=2, shaping=rule).tell([0.0, 1.0], sigma=1.0, learning_rate=1.0)
    for policy in FAILURE_POLICIES:
        assert unit_sums([1.0], failure_policy=policy)[0] == 1.0


def test_a_function_as_shaping_rule():
    seen = []

    def halves(fitness):
        seen.append(fitness)
        return fitness / 2

    population = Population(run_seed=0, population_size=3, shaping=halves, failure_policy="zero")
    record = population.tell([1.0, None, 3.0], sigma=1.0, learning_rate=1.0)
    assert record.coefficients.tolist() == [0.5, 0.0, 1.5]
    assert population.unpack(population.pack(record)) == record
    assert population.tell([2.0, 2.0, 2.0], sigma=1.0, learning_rate=1.0).coefficients.tolist() == [0.0] * 3
    assert [fitness.tolist() for fitness in seen] == [[1.0, 3.0]], "equal fitness isn't asked for, nor are records"


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda fitness: fitness[:1], r"must give one finite number per value: got \[1.0\] for \[1.0, 2.0\]"),
        (lambda fitness: fitness / 0, "must give one finite number per value"),
        (lambda fitness: None, "failed: TypeError"),
        (lambda fitness: 1 / 0, "failed: ZeroDivisionError: division by zero"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_a_function_that_is_no_shaping_rule(rule, message):
    population = Population(run_seed=0, population_size=2, shaping=rule)
    with pytest.raises(PopulationError, match=message):
        population.tell([1.0, 2.0], sigma=1.0, learning_rate=1.0)


@given(FITNESS, st.sampled_from(["zscore", "centered_rank"]), st.sampled_from(["zero", "worst", "drop_prompt"]))
def test_whatever_fails_coefficients_are_finite_and_telling_is_pure(fitness, shaping, policy):
    population = Population(run_seed=0, population_size=len(fitness), shaping=shaping, failure_policy=policy)
    values = [math.nan if value is None else value for value in fitness]
    record = population.tell(values, sigma=1e-3, learning_rate=5e-4)
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
    assert (record.run_seed, population.iteration, record.cursor) == (2**64 - 1, 1, 7)
    assert {member.iteration for member in population.ask(sigma=1.0)} == {1}
    with pytest.raises(PopulationError, match="expected a record of iteration 1, got one of iteration 0"):
        population.apply(record)
    with pytest.raises(PopulationError, match="2 members, this population has 3"):
        Population(run_seed=0, population_size=3).apply(record)
    with pytest.raises(PopulationError, match="of a run with seed 18446744073709551615, this one has seed 0"):
        Population(run_seed=0, population_size=2).apply(record)
    with pytest.raises(PopulationError, match="expected 2, got 3"):
        population.tell([1.0, 2.0, 3.0], sigma=1e-3, learning_rate=5e-4)


def test_a_table_takes_each_unit_once():
    table = FitnessTable(2, 3, prompts_per_unit=2, failure_policy="zero")
    table.set(3, [4.0])
    with pytest.raises(PopulationError, match="unit 3 is filled already"):
        table.set(3, [4.0])
    with pytest.raises(PopulationError, match="outside the table of 4 units"):
        table.set(4, [4.0])
    with pytest.raises(PopulationError, match=r"unit 0 \(members 0\.\.1, prompts 0\.\.2\): \[1.0, 3.0\] can't be"):
        table.set(0, [1.0, 3.0])
    with pytest.raises(PopulationError, match="3 of 4 units are missing, the first is unit 0"):
        table.fitness()
    with pytest.raises(PopulationError, match="members"):
        FitnessTable(0, 2, prompts_per_unit=1, failure_policy="zero")
    with pytest.raises(ConfigError, match="failure_policy"):
        FitnessTable(1, 1, prompts_per_unit=1, failure_policy="ignore")


@pytest.mark.parametrize(
    ("policy", "sums", "fitness"),
    [
        ("zero", [[1.0, 1.0], [2.0]], [0.5, 1.0]),
        ("worst", [[1.0, 1.0, 1.0], [2.0, -2.0]], [-0.5, 1.0]),
        ("drop_prompt", [[1.0, np.nan], [-2.0, 4.0]], [1.0, -2.0]),
    ],
)
def test_a_table_follows_the_policy(policy, sums, fitness):
    rewards = [[1.0, None], [-2.0, 4.0]]
    for row, expected in zip(rewards, sums, strict=True):
        np.testing.assert_array_equal(unit_sums(row, failure_policy=policy), expected)
    for members_per_unit in (1, 2):
        table = FitnessTable(2, 2, members_per_unit=members_per_unit, prompts_per_unit=2, failure_policy=policy)
        for unit in plan_units(2, 2, members_per_unit=members_per_unit, prompts_per_unit=2):
            cells = [rewards[member][prompt] for member in unit.members for prompt in unit.prompts]
            table.set(unit.index, unit_sums(cells, members=len(unit.members), failure_policy=policy))
        assert (table.complete, table.failures) == (True, 1)
        assert table.fitness() == fitness


def test_a_failed_reward_may_raise():
    table = FitnessTable(2, 2, prompts_per_unit=1, failure_policy="raise")
    for unit, reward in enumerate([1.0, np.nan, -2.0, 4.0]):
        table.set(unit, unit_sums([reward], failure_policy="raise"))
    with pytest.raises(
        PopulationError, match=r"1 of 4 rewards failed, the first is of member 0, among the prompts 1\.\.2"
    ):
        table.fitness()


@given(FITNESS, st.integers(0, 2**20))
def test_a_record_goes_through_bytes(fitness, cursor):
    population = Population(run_seed=3, population_size=len(fitness))
    record = population.tell(fitness, sigma=0.1, learning_rate=0.2, cursor=cursor)
    data = population.pack(record)
    assert population.unpack(data) == record
    assert len(data) == 33 + 8 * len(fitness)
    for end in range(len(data)):
        with pytest.raises(PopulationError, match="expected a packed record"):
            population.unpack(data[:end])


def test_a_plan_covers_each_member_and_prompt_once():
    units = plan_units(5, 7, members_per_unit=2, prompts_per_unit=3)
    assert [unit.index for unit in units] == list(range(9))
    assert (units[0].members, units[0].prompts) == (range(2), range(3))
    assert (units[-1].members, units[-1].prompts) == (range(4, 5), range(6, 7))
    cells = [(member, prompt) for unit in units for member in unit.members for prompt in unit.prompts]
    assert sorted(cells) == [(member, prompt) for member in range(5) for prompt in range(7)]
    assert repr(units[-1]) == "Unit(index=8, members=4..5, prompts=6..7)"
    with pytest.raises(PopulationError, match="`prompts` must be at least 1"):
        plan_units(1, 0, prompts_per_unit=1)
