"""Each reason why a run can't learn is found from its figures, also in complete runs."""

import json
from dataclasses import replace

import pytest

from es_llm import ESConfig
from es_llm.trainer.learning.answers import Comparison, Reference
from es_llm.trainer.learning.diagnosis import Diagnosis, Figures
from es_llm.units.counts import Counts
from tests.commands import es_llm

SOUND = Reference(answers=8, distinct=8, reward=0.5, rights=4, empty=0.0, cut_off=0.0)
HEALTHY = Comparison(
    cells=240, pair_identical=None, alike=False, distinct=0.4, spread=0.6, empty=0.0, cut_off=0.0, identical=0.5,
    lost=0.3, worse=0.4, noisy=0.0, reference=SOUND,
)  # fmt: skip


def figures(step, *, fitness=(0.1, 0.2), compared=HEALTHY, failures=0, empty=0, cut_off=0):
    return Figures(
        step=step,
        fitness=fitness,
        counts=Counts(completions=100, empty=empty, cut_off=cut_off),
        failures=failures,
        comparison=compared,
        rewards={},
        logged={},
    )


def observed(*iterations, **options):
    """(step, reason, message) of every finding."""
    diagnosis = Diagnosis(ESConfig(**options))
    return [(one.step, *finding) for one in iterations for finding in diagnosis.observe(one)]


def flat(compared, *, steps=3, **counts):
    return [figures(step, fitness=(0.25, 0.25), compared=compared, **counts) for step in range(1, steps + 1)]


def test_a_healthy_run_has_no_finding():
    assert observed(*(figures(step) for step in range(1, 500))) == []


def test_equal_answers_are_named_with_the_figure_and_a_sigma_to_try():
    alike = replace(HEALTHY, alike=True, identical=0.96, distinct=0.1, spread=0.0)
    [(step, reason, message)] = observed(*flat(alike, steps=20), sigma=1e-6)
    assert (step, reason) == (3, "sigma too small")
    assert "same fitness 0.25 for 3 iterations" in message
    assert "96% of them equal to the unperturbed model's" in message
    assert "`sigma` 1e-06 is too small; try --sigma 0.001" in message


def test_the_advice_triples_a_larger_sigma():
    alike = replace(HEALTHY, alike=True)
    assert "try --sigma 0.006" in observed(*flat(alike), sigma=2e-3)[0][2]


def test_equal_answers_of_a_foreign_engine_may_be_its_fault():
    alike = replace(HEALTHY, alike=True)
    assert observed(*flat(alike), engine="e.py")[0][2].endswith(
        "; or the engine 'e.py' doesn't call `live.switch` for each member"
    )
    assert "live.switch" not in observed(*flat(alike))[0][2]


def test_without_reference_equal_answers_are_still_reported():
    alike = replace(HEALTHY, alike=True, identical=None, reference=None, lost=None)
    assert observed(*flat(alike))[0][1] == "sigma too small"


def test_empty_answers_of_the_model_itself_point_to_the_prompt():
    empty = replace(HEALTHY, alike=True, empty=1.0, reference=replace(SOUND, empty=1.0))
    [(_, reason, message)] = observed(*flat(empty, empty=100))
    assert reason == "empty answers"
    assert "100% of the answers are empty" in message
    assert "chat template" in message


def test_answers_that_are_cut_off():
    cut = replace(HEALTHY, cut_off=1.0, reference=replace(SOUND, cut_off=1.0))
    [(_, reason, message)] = observed(*flat(cut, cut_off=95), max_completion_length=7)
    assert reason == "answers cut off"
    assert "95% of the answers are cut off at `max_completion_length` 7" in message


def test_equal_answers_that_are_cut_off_have_both_reasons_in_one_finding():
    cut = replace(HEALTHY, alike=True, cut_off=1.0, reference=replace(SOUND, cut_off=1.0))
    [(_, reason, message)] = observed(*flat(cut, cut_off=100), sigma=1e-7)
    assert reason == "sigma too small"
    assert "`sigma` 1e-07 is too small" in message
    assert "Also, 100% of the answers are cut off" in message
    [(_, reason, message)] = observed(*flat(cut, cut_off=100), sigma=1e-3)
    assert reason == "answers cut off"
    assert "Raise it. `sigma` 0.001 may be too small" in message


def test_a_constant_reward():
    [(_, reason, message)] = observed(*flat(HEALTHY))
    assert reason == "constant reward"
    assert "Check the reward function" in message


def test_rewards_that_all_failed_are_named_at_once():
    diagnosis = Diagnosis(ESConfig(), why_failed=lambda: "; `f`: KeyError: 'x'")
    [finding] = diagnosis.observe(figures(1, fitness=(), failures=100))
    assert finding.message.startswith("no completion has a reward, so the weights do not change; `f`: KeyError: 'x'")
    assert diagnosis.observe(figures(2, fitness=(), failures=100)) == []
    assert diagnosis.flat_iterations == 2


def test_noise_that_breaks_the_answers():
    broken = replace(HEALTHY, cut_off=0.95)
    [(step, reason, message)] = observed(figures(1, compared=broken), figures(2, compared=broken), sigma=0.5)
    assert (step, reason) == (2, "sigma too large")
    assert "95% of the members' answers are empty or cut off, and 0% of the unperturbed model's" in message
    assert "try --sigma 0.001" in message


def test_noise_that_loses_right_answers():
    lossy = replace(HEALTHY, lost=0.9)
    [(step, reason, message)] = observed(*(figures(step, compared=lossy) for step in (1, 2, 3)), sigma=3e-3)
    assert (step, reason) == (2, "sigma too large")
    assert "lose 90% of the answers that the unperturbed model gives right" in message
    assert "try --sigma 0.001" in message


def test_a_few_right_answers_lost_by_chance_are_none():
    lossy = replace(HEALTHY, lost=1.0, reference=replace(SOUND, rights=1))
    assert observed(*(figures(step, compared=lossy) for step in range(1, 50))) == []


def test_consequences_of_a_collapse_are_not_reported_beside_it():
    broken = replace(HEALTHY, cut_off=1.0)
    found = observed(*flat(broken, steps=9, cut_off=100))
    assert [(step, reason) for step, reason, _ in found] == [(2, "sigma too large")]


def test_weights_that_give_broken_answers_after_an_update():
    gone = replace(HEALTHY, cut_off=1.0, reference=replace(SOUND, reward=0.0, rights=0, cut_off=1.0))
    later = [figures(step, fitness=(0.0, 0.0), compared=gone, cut_off=100) for step in (2, 3, 4)]
    found = observed(figures(1), *later, learning_rate=10.0, sigma=0.002)
    [(step, reason, message)] = found
    assert (step, reason) == (3, "learning rate too large")
    assert "the model has collapsed" in message
    assert "start again with --learning_rate 0.001" in message


def test_right_answers_that_the_weights_lose():
    wrong = replace(HEALTHY, lost=None, reference=replace(SOUND, rights=0))
    right = replace(HEALTHY, reference=replace(SOUND, rights=8))
    found = observed(figures(1, compared=right), figures(2, compared=wrong), figures(3, compared=wrong))
    [(step, reason, message)] = found
    assert (step, reason) == (3, "learning rate too large")
    assert "answers 0 of 16 prompts right, before 100%" in message


def test_garbled_answers_of_a_model_whose_answers_are_always_cut_off():
    cut = replace(SOUND, cut_off=1.0, rights=0)
    garbled = replace(HEALTHY, cells=4, cut_off=1.0, identical=0.0, lost=None, worse=1.0, reference=cut)
    shares = [1.0, 0.75, 1.0, 1.0]
    iterations = [figures(step, compared=replace(garbled, worse=worse)) for step, worse in enumerate(shares, 1)]
    [(step, reason, message)] = observed(*iterations, sigma=1.0, population_size=2)
    assert (step, reason) == (3, "sigma too large")
    assert "0% of the members' answers equal the unperturbed model's, and 92% get a lower reward" in message


@pytest.mark.parametrize("change", [{"worse": 0.7}, {"identical": 0.12}, {"worse": None}])
def test_other_answers_alone_are_no_collapse(change):
    other = replace(HEALTHY, identical=0.0, worse=1.0)
    assert observed(*(figures(step, compared=replace(other, **change)) for step in range(1, 9))) == []


def test_worse_answers_late_in_a_run_are_none():
    late = replace(HEALTHY, identical=0.0, worse=1.0)
    assert (
        observed(*(figures(step) for step in range(1, 4)), *(figures(step, compared=late) for step in (4, 5, 6))) == []
    )


def test_one_answer_to_all_prompts_and_less_reward():
    gone = replace(HEALTHY, reference=replace(SOUND, distinct=1, reward=0.1))
    [(step, reason, message)] = observed(figures(1), figures(2, compared=gone), figures(3, compared=gone))
    assert (step, reason) == (3, "learning rate too large")
    assert "one answer to all prompts" in message
    better = replace(HEALTHY, reference=replace(SOUND, distinct=1, reward=0.9))
    assert observed(figures(1), *(figures(step, compared=better) for step in range(2, 9))) == []


def test_equal_answers_after_a_fall_of_the_reward_are_a_collapse():
    fallen = replace(HEALTHY, alike=True, reference=replace(SOUND, answers=1, distinct=1, rights=0, reward=-9.0))
    first = replace(HEALTHY, reference=replace(SOUND, answers=1, distinct=1, rights=0))
    later = [figures(step, fitness=(0.0, 0.0), compared=fallen) for step in (2, 3)]
    [(step, reason, message)] = observed(figures(1, compared=first), *later)
    assert (step, reason) == (3, "learning rate too large")
    assert "its reward has fallen: the model has collapsed" in message


def test_half_of_the_sound_answers_are_gone():
    third = replace(HEALTHY, reference=replace(SOUND, cut_off=0.625, reward=0.1))
    [(step, reason, message)] = observed(figures(1), figures(2, compared=third), figures(3, compared=third))
    assert (step, reason) == (3, "learning rate too large")
    assert "62% of the unperturbed model's answers are empty or cut off, before 0%" in message
    longer = replace(HEALTHY, reference=replace(SOUND, cut_off=0.625, reward=0.9))
    assert observed(figures(1), *(figures(step, compared=longer) for step in range(2, 9))) == []


def test_equal_answers_with_different_rewards():
    noisy = replace(HEALTHY, alike=True, identical=1.0, noisy=1.0)
    [(step, reason, message)] = observed(*(figures(step, compared=noisy) for step in (1, 2, 3)))
    assert (step, reason) == (3, "sigma too small")
    assert "gives equal answers different rewards: the weights move at random" in message


def test_a_judge_that_fails_and_is_constant_otherwise():
    [(_, reason, message)] = observed(*flat(HEALTHY, failures=48))
    assert reason == "constant reward"
    assert "48% of the rewards failed, the others are equal" in message


def test_a_collapse_of_an_earlier_call_is_remembered():
    alike = replace(HEALTHY, alike=True)
    diagnosis = Diagnosis(ESConfig())
    assert [diagnosis.recall(reason) for reason in ("learning rate too large", "no reward", "evaluation")] == [
        True, False, False,
    ]  # fmt: skip
    assert [diagnosis.observe(one) for one in flat(alike)] == [[], [], []]


def test_two_iterations_without_spread_after_one_with_it():
    first, *others = [figures(1), figures(2, fitness=(0.0, 0.0)), figures(3, fitness=(0.0, 0.0))]
    [(step, reason, message)] = observed(first, *others)
    assert (step, reason) == (3, "constant reward")
    assert "The rewards differed before" in message


def test_a_shorter_run_is_judged_at_its_end():
    alike = replace(HEALTHY, alike=True)
    assert observed(*flat(alike, steps=1), max_steps=1)[0][:2] == (1, "sigma too small")
    assert observed(*flat(alike, steps=2), max_steps=5) == []


def test_an_iteration_without_spread_among_others_is_none():
    assert observed(*(figures(step, fitness=(0.0, step % 3 / 3)) for step in range(1, 100))) == []


def test_updates_that_move_nothing():
    diagnosis = Diagnosis(ESConfig(learning_rate=1e-12))
    found = []
    for step in range(1, 6):
        diagnosis.observe(figures(step))
        found += [(step, *finding) for finding in diagnosis.moved(step, 0.001, flat=False, zero=False)]
    [(step, reason, message)] = found
    assert (step, reason) == (3, "learning rate too small")
    assert message.startswith("the updates change 0.1% of the weights of the model: `learning_rate` 1e-12 is too small")


def test_an_iteration_of_equal_fitness_gives_no_finding_on_the_learning_rate():
    diagnosis = Diagnosis(ESConfig(learning_rate=1e-12))
    ratios = [(0.001, False), (0.001, False), (0.0, True), (0.001, False)]
    assert [
        len(diagnosis.moved(step, ratio, flat=flat, zero=False)) for step, (ratio, flat) in enumerate(ratios, 1)
    ] == [
        0,
        0,
        0,
        1,
    ]


@pytest.mark.parametrize(
    ("antithetic", "zero"), [(False, "0 for all members"), (True, "the same for both members of each pair")]
)
def test_shaped_fitness_of_zero(antithetic, zero):
    diagnosis = Diagnosis(ESConfig(shaping="mine.py", antithetic=antithetic))
    found = []
    for step in range(1, 8):
        diagnosis.observe(figures(step))
        found += [(step, *finding) for finding in diagnosis.moved(step, 0.0, flat=False, zero=True)]
    [(step, reason, message)] = found
    assert (step, reason) == (3, "shaped fitness zero")
    assert message == (
        f"the members' fitness differs, but their shaped fitness (`shaping` mine.py) is {zero} for 3 iterations, so "
        "nothing moves"
    )


def test_shaped_fitness_of_zero_in_some_iterations_is_no_finding():
    diagnosis = Diagnosis(ESConfig())
    for step in range(1, 30):
        diagnosis.observe(figures(step))
        zero = step % 3 > 0
        assert diagnosis.moved(step, 0.0 if zero else 0.5, flat=False, zero=zero) == []


def test_updates_far_below_the_noise():
    diagnosis = Diagnosis(ESConfig(learning_rate=1e-7))
    found = [diagnosis.moved(step, 0.06, flat=False, zero=False) for step in (1, 2, 3)]
    assert "500 of them in one direction move a weight by 0.009 sigma" in found[2][0].message
    assert [len(one) for one in found] == [0, 0, 1]


def test_the_paper_s_settings_are_none():
    for sigma, rate, members in [(1e-3, 5e-4, 30), (5e-4, 2.5e-4, 30), (1e-3, 3e-4, 50), (8e-3, 1.2e-2, 24)]:
        diagnosis = Diagnosis(ESConfig(learning_rate=rate, sigma=sigma, population_size=members, max_steps=1))
        assert diagnosis.moved(1, 0.5, flat=False, zero=False) == []


# ---- whole runs ------------------------------------------------------------------------------------------

WORDS = [
    "--population_size", "6", "--prompts_per_iteration", "12", "--prompts_per_unit", "8", "--eval_on_start", "false",
    "--task_args", "train_size=40", "eval_size=4", "--max_completion_length", "8", "--max_steps", "3",
]  # fmt: skip


def run(directory, *words, **how):
    done = es_llm("train", *WORDS, "--output_dir", str(directory), *words, **how)
    assert done.returncode == 0, done.stderr
    metrics = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return done.stderr, [line for line in metrics if "reward" in line]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--sigma", "1e-9"], "100% of them equal to the unperturbed model's. `sigma` 1e-09 is too small"),
        (["--sigma", "1"], "`sigma` 1 is too large"),
        (["--learning_rate", "50"], "`learning_rate` 50 is too large"),
    ],
)
def test_a_run_that_cannot_learn_reports_it_within_three_iterations(tmp_path, words, expected):
    errors, _ = run(tmp_path / "D", *words)
    assert expected in errors
    events = es_llm("inspect", str(tmp_path / "D")).stdout
    assert "iteration 3  sigma too small" in events or "too large" in events


def test_a_rule_that_makes_all_shaped_fitness_zero_is_named(tmp_path):
    rule = tmp_path / "nothing.py"
    rule.write_text("def shape(fitness):\n    return 0 * fitness\n")
    errors, _ = run(tmp_path / "D", "--sigma", "0.02", "--shaping", str(rule))
    zero = f"their shaped fitness (`shaping` {rule}) is 0 for all members for 3 iterations, so nothing moves"
    assert f"the members' fitness differs, but {zero}" in errors
    assert "learning_rate" not in errors
    assert "iteration 3  shaped fitness zero" in es_llm("inspect", str(tmp_path / "D")).stdout


@pytest.mark.mpi
def test_shares_are_equal_on_any_number_of_ranks(tmp_path):
    words = ["--sigma", "0.02", "--antithetic", "true"]
    (_, alone), (_, three) = run(tmp_path / "A", *words), run(tmp_path / "B", *words, ranks=3)
    names = [name for name in alone[0] if name.startswith(("answers/", "reference/", "completions/"))]
    assert {"answers/identical_ratio", "answers/identical_pairs_ratio", "answers/distinct_ratio", "reference/reward",
            "answers/prompts_with_spread_ratio", "completions/empty_ratio"} <= set(names)  # fmt: skip
    assert [[line[name] for name in names] for line in alone] == [[line[name] for name in names] for line in three]


def test_without_a_reference_there_is_none(tmp_path):
    _, metrics = run(tmp_path / "D", "--reference_steps", "2")
    assert ["reference/empty_ratio" in line for line in metrics] == [True, False, True]
