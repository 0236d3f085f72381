"""Evaluation by samples: unbiased pass@k, votes, KL to the base, several sets, the best snapshot, patience."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from es_llm import ESConfig, ESTrainer
from es_llm._core import Journal
from es_llm.comm import SingleMailbox
from es_llm.errors import ConfigError
from es_llm.evaluation.statistics import k3, pass_at_k, passes, vote
from es_llm.noise.streams import SAMPLES
from es_llm.rewards import inline, set_level
from es_llm.rollout.engine import Sampling
from es_llm.rollout.engines.hf import HFEngine
from es_llm.rollout.sampling import token_log_probs, uniforms
from es_llm.team import Team
from tests.commands import SMALL, es_llm
from tests.tiny_models import PAD, tiny_model, tiny_tokenizer


def sampled(engine, prompts, addresses, **options):
    """One sampled completion per prompt, of the weights without noise."""
    return engine.complete(prompts, Sampling(addresses=addresses, **options))


ROWS = [{"prompt": text, "wanted": index} for index, text in enumerate(["ab", "cde", "f", "ghij", "k"])]


@given(st.integers(1, 7), st.data())
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_one(samples, data):
    right, k = data.draw(st.integers(0, samples)), data.draw(st.integers(1, samples))
    outcomes = [True] * right + [False] * (samples - right)
    subsets = list(itertools.combinations(outcomes, k))
    assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_of_many_samples():
    assert pass_at_k(1000, 1, 1) == pytest.approx(0.001)
    assert pass_at_k(1000, 1, 1000) == 1
    assert pass_at_k(5, 0, 5) == 0
    assert passes(1) == [1]
    assert passes(10) == [1, 2, 4, 8, 10]


@pytest.mark.parametrize(
    ("answers", "winner"),
    [(["a", "b", "b"], 1), (["a", "b"], 0), ([None, None], None), ([None, "x", None], 1), (["b", "a", "a", "b"], 0)],
)
def test_votes(answers, winner):
    assert vote(answers) == winner


def test_k3_is_zero_for_equal_models_and_unbiased():
    assert k3([-1.0, -2.0], [-1.0, -2.0]) == 0
    own, base = [0.7, 0.2, 0.1], [0.5, 0.3, 0.2]
    kl = sum(p * math.log(p / q) for p, q in zip(own, base, strict=True))
    estimate = sum(p * k3([math.log(p)], [math.log(q)]) for p, q in zip(own, base, strict=True))
    assert estimate == pytest.approx(kl)


def test_k3_is_finite_for_any_models():
    for own, base in ((-1000.0, -0.1), (-1e30, 0.0), (-0.1, -math.inf), (-math.inf, -0.1), (math.nan, -1.0)):
        assert 100 < k3([own, -1.0], [base, -1.0]) < math.inf


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_kl_is_that_of_the_distributions_that_are_sampled_from(temperature):
    """The estimate from the first tokens of 2,000 samples is near the exact KL, a sum over the vocabulary."""
    model, other, count = tiny_model(), tiny_model(), 2000
    torch.manual_seed(0)
    for weight in other.parameters():
        weight.data += 0.03 * torch.randn_like(weight)
    engine = HFEngine(model, tiny_tokenizer(), max_completion_length=1)
    made = []
    for start in range(0, count, 500):
        addresses = [(0, start + n) for n in range(500)]
        made += sampled(engine, ["ab"] * 500, addresses, seed=5, temperature=temperature)
    ids = torch.tensor([tiny_tokenizer()("ab")["input_ids"]])
    own, base = (
        torch.log_softmax(each(input_ids=ids).logits[0, -1].detach().double() / temperature, -1)
        for each in (model, other)
    )
    log_probs = [engine.log_probs(["ab"] * count, made, which, temperature=temperature) for which in (None, other)]
    estimates = [k3(*(probs.tolist() for probs in pair)) for pair in zip(*log_probs, strict=True)]
    mean = sum(estimates) / count
    error = (sum((each - mean) ** 2 for each in estimates) / count**2) ** 0.5
    kl = (own.exp() * (own - base)).sum().item()
    assert abs(mean - kl) < 4 * error
    at_one = [engine.log_probs(["ab"] * count, made, which) for which in (None, other)]
    wrong = sum(k3(*(probs.tolist() for probs in pair)) for pair in zip(*at_one, strict=True)) / count
    assert temperature == 1.0 or abs(wrong - kl) > 10 * error


def test_an_evaluation_takes_its_temperature_for_the_kl(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(HFEngine, "log_probs", lambda *given, temperature=1.0: asked.append(temperature) or [])
    trainer(tmp_path, eval_num_samples=2, eval_kl=True, eval_temperature=2.5).evaluate()
    assert set(asked) == {2.5}


def test_samples_depend_only_on_seed_row_and_sample():
    engine = HFEngine(tiny_model(), tiny_tokenizer(), max_completion_length=12)
    prompts = [row["prompt"] for row in ROWS for _ in range(3)]
    addresses = [(row, sample) for row in range(5) for sample in range(3)]
    made = sampled(engine, prompts, addresses, seed=1, temperature=1.0)
    assert sampled(engine, prompts, addresses, seed=1, temperature=1.0) == made
    assert sampled(engine, prompts, addresses, seed=2, temperature=1.0) != made
    assert len({completion.text for completion in made[:3]}) > 1
    back = sampled(engine, prompts[::-1], addresses[::-1], seed=1, temperature=1.0)[::-1]
    assert [c.token_ids for c in back] == [c.token_ids for c in made]
    cold = sampled(engine, prompts, addresses, seed=1, temperature=1e-4)
    assert [c.token_ids for c in cold] == [c.token_ids for c in engine.complete(prompts)]


def test_samples_follow_the_probabilities():
    """A chi-squared test compares the first tokens of 4,000 samples with the softmax."""
    model, temperature = tiny_model(), 2.0
    engine = HFEngine(model, tiny_tokenizer(), max_completion_length=1)
    count = 4000
    made = []
    for start in range(0, count, 500):
        addresses = [(0, start + n) for n in range(500)]
        made += [c.token_ids[0] for c in sampled(engine, ["ab"] * 500, addresses, seed=5, temperature=temperature)]
    ids = torch.tensor([tiny_tokenizer()("ab")["input_ids"]])
    expected = torch.softmax(model(input_ids=ids).logits[0, -1].double() / temperature, -1) * count
    observed = torch.bincount(torch.tensor(made), minlength=len(expected))
    often = expected >= 10
    chi = ((observed - expected)[often] ** 2 / expected[often]).sum().item()
    freedom = int(often.sum())
    assert chi < freedom + 5 * math.sqrt(2 * freedom)
    assert uniforms(SAMPLES, 2**64 - 1, [(2**32 - 1, 2**32 - 1)], 5).shape == (1, 5)


def test_log_probabilities_are_those_of_the_model():
    model = tiny_model()
    rows = [((5, 6, 7), (8, 9)), ((10,), (11, 12, 13))]
    for computed, (prompt, completion) in zip(token_log_probs(model, rows, PAD), rows, strict=True):
        logits = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0]
        wanted = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1].gather(-1, torch.tensor(completion)[:, None])
        torch.testing.assert_close(computed, wanted.squeeze(-1).detach(), atol=1e-4, rtol=1e-4)


@inline
def short(completions, **columns):
    return [-float(len(text)) for text in completions]


@inline
def early(completions, **columns):
    return [float("0" <= text[:1] < "K") for text in completions]


def trainer(directory, eval_dataset=ROWS, **options):
    settings = {
        "population_size": 4, "sigma": 0.05, "learning_rate": 0.05, "max_steps": 3, "max_completion_length": 6,
        "prompts_per_iteration": 3, "prompts_per_unit": 4, "output_dir": str(directory), **options,
    }  # fmt: skip
    return ESTrainer(
        tiny_model(), short, ESConfig(**settings), ROWS, eval_dataset, tiny_tokenizer(), metric_funcs={"early": early},
        team=Team(SingleMailbox()),
    )  # fmt: skip


def test_samples_in_an_evaluation(tmp_path):
    made = trainer(tmp_path, eval_num_samples=6, eval_kl=True)
    before = made.evaluate()
    assert before["eval_kl"] == pytest.approx(0, abs=1e-6)
    assert before["eval_pass@1"] <= before["eval_pass@2"] <= before["eval_pass@4"] <= before["eval_pass@6"] <= 1
    assert 0 < before["eval_pass@2"] < 1
    assert 0 <= before["eval_vote"] <= 1
    assert before["eval_sampled_mean_length"] <= 6
    made.train()
    assert made.evaluate()["eval_kl"] > 1e-4
    assert trainer(tmp_path / "b", eval_num_samples=6, eval_kl=True).evaluate() == before


@pytest.mark.parametrize("workers", [0, 1])
def test_set_level_functions_see_whole_sets_of_samples(tmp_path, workers):
    """Without the set-level function the units would be smaller than the set: 4 prompts with 2 samples each."""

    @set_level
    def whole(prompts, completions, wanted, log_extra, log_metric, **columns):
        assert list(prompts) == [row["prompt"] for row in ROWS]
        assert list(wanted) == [row["wanted"] for row in ROWS]
        log_extra("joined", ["|".join(completions)] * len(completions))
        log_metric("sets", 1.0)
        return float(sum(map(len, completions)))

    def alone(completions, wanted, **columns):
        return [len(text) + 0.1 * number for text, number in zip(completions, wanted, strict=True)]

    options = {"eval_num_samples": 3, "log_completions": True, "reward_workers": workers, "max_completion_length": 6}
    made = ESTrainer(
        tiny_model(), [whole, alone], ESConfig(output_dir=str(tmp_path), prompts_per_unit=4, **options), ROWS, ROWS,
        tiny_tokenizer(), metric_funcs={"early": early}, team=Team(SingleMailbox()),
    )  # fmt: skip
    metrics = made.evaluate()
    made.run.rewards.close()
    assert not any("failures" in name for name in metrics)
    rows = parquet.read_table(tmp_path / "completions" / "eval-rank0.parquet").to_pylist()
    for sample in (-1, 0, 1, 2):
        texts = [row["completion"] for row in rows if row["sample"] == sample]
        assert len(texts) == 5
        mine = [row for row in rows if row["sample"] == sample]
        assert {row["whole"] for row in mine} == {float(sum(map(len, texts)))}
        assert {row["joined"] for row in mine} == {"|".join(texts)}
        assert [row["alone"] for row in mine] == [len(text) + 0.1 * index for index, text in enumerate(texts)]
        assert [row["reward"] for row in mine] == [row["whole"] + row["alone"] for row in mine]
    sampled = [row["reward"] for row in rows if row["sample"] >= 0]
    assert metrics["eval_sampled_reward"] == pytest.approx(sum(sampled) / len(sampled))


def test_the_kl_may_be_to_another_model(tmp_path):
    trainer(tmp_path / "a").train()
    made = trainer(tmp_path / "b", eval_num_samples=6, eval_kl=True)
    made.compare_with(str(tmp_path / "a" / "model"))
    assert made.evaluate()["eval_kl"] > 1e-4


def test_several_sets_by_name(tmp_path):
    whole, first, last = (
        trainer(tmp_path).evaluate(data) for data in (ROWS, {"one": ROWS[:2], "two": ROWS[2:]}, {"one": ROWS[:2]})
    )
    assert first["eval_one_reward"] == last["eval_one_reward"]
    mean = (2 * first["eval_one_reward"] + 3 * first["eval_two_reward"]) / 5
    assert mean == pytest.approx(whole["eval_reward"])
    lengths = (2 * first["eval_one_completions/mean_length"] + 3 * first["eval_two_completions/mean_length"]) / 5
    assert lengths == pytest.approx(whole["eval_completions/mean_length"])
    with pytest.raises(ConfigError, match="name of a set must be text"):
        trainer(tmp_path, {1: ROWS})


def test_completions_are_kept(tmp_path):
    trainer(tmp_path, log_completions=True, eval_num_samples=2, max_steps=2).train()
    names = {path.name for path in (tmp_path / "completions").iterdir()}
    assert names == {f"{kind}-rank0.parquet" for kind in ("eval-00000", "eval-00002", "train-00001", "train-00002")}
    evaluation = parquet.read_table(tmp_path / "completions" / "eval-00002-rank0.parquet").to_pylist()
    assert len(evaluation) == 5 * 3
    assert {row["sample"] for row in evaluation} == {-1, 0, 1}
    for row in evaluation:
        assert row["reward"] == row["short"] == -len(row["completion"])
        assert row["step"] == 2
    train = parquet.read_table(tmp_path / "completions" / "train-00001-rank0.parquet").to_pylist()
    assert len(train) == 4 * 3
    assert {row["member"] for row in train} == {0, 1, 2, 3}
    assert all("Prompt" not in row for row in train)


def snapshots(directory):
    return sorted(int(path.name.partition("-")[2]) for path in Path(directory).glob("checkpoint-*"))


def test_the_best_snapshot_is_kept_and_patience_ends_the_run(tmp_path, monkeypatch):
    """The test sets the reward of each iteration; the best one is at iteration 2."""
    values = {0: 0.0, 1: 1.0, 2: 5.0, 3: 4.0, 4: 5.0, 5: 3.0, 6: 9.0}
    from es_llm.evaluation.work import EvaluationWork

    result = EvaluationWork.result

    def made_up(self, table, answers):
        evaluation = result(self, table, answers)
        evaluation.metrics["reward"] = values[self._run.population.iteration]
        return evaluation

    monkeypatch.setattr(EvaluationWork, "result", made_up)
    options = {
        "eval_steps": 1, "metric_for_best_model": "eval_reward", "early_stopping_patience": 3,
        "save_steps": 1, "save_total_limit": 1, "max_steps": 9,
    }  # fmt: skip
    output = trainer(tmp_path, **options).train()
    assert output.global_step == 5
    assert output.metrics["best"] == {"step": 2, "value": 5.0}
    assert snapshots(tmp_path) == [2, 5]
    again = trainer(tmp_path, **options).train(resume_from_checkpoint=True)
    assert again.global_step == 5, "the patience is still over"
    longer = trainer(tmp_path, **{**options, "early_stopping_patience": 4, "max_steps": 6})
    assert longer.train(resume_from_checkpoint=True).metrics["best"] == {"step": 6, "value": 9.0}
    with pytest.raises(ConfigError, match="`metric_for_best_model` must be one of"):
        trainer(tmp_path / "x", metric_for_best_model="loss").train()


@pytest.mark.parametrize("point", ["before the event", "after the event", "before the snapshot", "between two"])
def test_an_interrupted_run_gives_the_same_evaluations(tmp_path, monkeypatch, point):
    """The patience, the best snapshot and so the final weights depend on the evaluations."""
    from es_llm.checkpoint.run_files import RunFiles
    from es_llm.checkpoint.snapshot import Snapshots
    from es_llm.evaluation.work import EvaluationWork

    values = {0: 0.0, 2: 5.0, 3: 9.0, 4: 1.0, 6: 2.0}
    result = EvaluationWork.result

    def made_up(self, table, answers):
        evaluation = result(self, table, answers)
        evaluation.metrics["reward"] = values[self._run.population.iteration]
        return evaluation

    monkeypatch.setattr(EvaluationWork, "result", made_up)
    options = {
        "eval_steps": 2, "metric_for_best_model": "reward", "early_stopping_patience": 2, "max_steps": 8,
        "save_steps": 8, "save_total_limit": 1,
    }  # fmt: skip
    whole = trainer(tmp_path / "whole", **options).train()
    assert (whole.global_step, whole.metrics["best"]["step"]) == (6, 2)

    class BrokenError(Exception):
        pass

    def breaking(cls, name, due, *, after=False):
        method = getattr(cls, name)

        def run(self, *given, **named):
            if due(*given) and not after:
                raise BrokenError
            method(self, *given, **named)
            if due(*given):
                raise BrokenError

        return lambda patch: patch.setattr(cls, name, run)

    def second_evaluation(event):
        return event["event"] == "evaluation" and event["step"] == 2

    breaks = {
        "before the event": breaking(RunFiles, "append_event", second_evaluation),
        "after the event": breaking(RunFiles, "append_event", second_evaluation, after=True),
        "before the snapshot": breaking(Snapshots, "write", lambda *given: True),
        "between two": breaking(RunFiles, "append_record", lambda record: record.iteration == 2, after=True),
    }
    with monkeypatch.context() as patch:
        breaks[point](patch)
        with pytest.raises(BrokenError):
            trainer(tmp_path / "broken", **options).train()
    again = trainer(tmp_path / "broken", **options).train(resume_from_checkpoint=True)
    compared = ("steps", "weights_sha256", "best", "eval_before", "eval_after")
    assert {name: again.metrics[name] for name in compared} == {name: whole.metrics[name] for name in compared}
    assert snapshots(tmp_path / "broken") == snapshots(tmp_path / "whole") == [2, 6]
    for name in ("whole", "broken"):
        events = [json.loads(text) for text in Journal.read(str(tmp_path / name / "journal.es")).events]
        assert [event["step"] for event in events if event["event"] == "evaluation"] == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_kl": True}, "`eval_kl` must be false without `eval_num_samples`"),
        ({"early_stopping_patience": 2}, "0 without `metric_for_best_model`"),
        ({"eval_temperature": 0.0}, "`eval_temperature` must be a number > 0"),
        ({"eval_num_samples": -1}, "`eval_num_samples` must be an integer >= 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ConfigError, match=message):
        ESConfig(**options)


@pytest.mark.mpi
@pytest.mark.slow
def test_the_command_line_gives_the_same_figures_on_any_number_of_ranks(tmp_path):
    words = ["eval", *SMALL, "--eval_num_samples", "4", "--eval_kl", "--log_completions"]
    printed = []
    for ranks in (None, 3):
        directory = tmp_path / str(ranks)
        words_of_run = [*words, "--output_dir", str(directory), "--output", str(tmp_path / "eval.json")]
        process = es_llm(*words_of_run, ranks=ranks, fresh=True)
        assert process.returncode == 0, process.stderr
        printed.append(json.loads(process.stdout))
        assert json.loads((tmp_path / "eval.json").read_text()) == printed[-1]
        assert "eval_pass@4" in process.stderr
        assert "answer  " in process.stderr
        files = sorted((directory / "completions").iterdir())
        rows = [row for file in files for row in parquet.read_table(file).to_pylist()]
        assert len({(row["prompt"], row["sample"]) for row in rows}) == 10 * 5, "a late unit may be made twice"
    assert printed[0] == printed[1]
    assert es_llm(*words, "--output", str(tmp_path / "no" / "where.json")).returncode == 2
