"""A run whose members have few completions is advised to decode them together."""

import logging

import pytest

from es_llm import ESConfig, ESTrainer
from es_llm.rewards import inline
from es_llm.trainer.assembly.engine_choice import is_small
from tests.tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = [{"prompt": f"{number} + 3 = "} for number in range(9)]


@inline
def length(completions, **columns):
    return [float(len(text)) for text in completions]


def advice(caplog, tmp_path, model=None, rows=ROWS, resume=None, engine_model="qwen2", **options):
    """The advice of a run, and its trainer."""
    values = {"population_size": 32, "prompts_per_iteration": 2, "max_steps": 1, "max_completion_length": 2}
    config = ESConfig(**{**values, "output_dir": str(tmp_path / "run"), "eval_on_start": False, **options})
    model = tiny_model(engine_model) if model is None else model
    trainer = ESTrainer(model, length, config, rows, processing_class=tiny_tokenizer())
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        trainer.train(resume)
    return [record.message for record in caplog.records if "--engine" in record.message]


@pytest.mark.parametrize(
    ("rows", "members", "ranks", "expected"),
    [(1, 32, 1, True), (8, 30, 1, True), (9, 30, 1, False), (200, 30, 1, False), (2, 8, 1, False), (2, 16, 1, True),
     (2, 32, 2, True), (2, 32, 3, False)],
)  # fmt: skip
def test_when_members_have_few_rows(rows, members, ranks, expected):
    assert is_small(rows, members, ranks) is expected


def test_the_line_has_the_options_to_set(caplog, tmp_path):
    (line,) = advice(caplog, tmp_path)
    assert line.startswith("2 completion(s) per member and iteration fill a batch badly")
    assert "`--engine batched --perturbation low_rank --rank 1`" in line
    assert "\n" not in line


def test_a_low_rank_run_keeps_its_rank(caplog, tmp_path):
    (line,) = advice(caplog, tmp_path, perturbation="low_rank", rank=3)
    assert "`--engine batched --perturbation low_rank --rank 3`" in line


def test_the_options_of_the_line_work(caplog, tmp_path):
    assert advice(caplog, tmp_path, engine="batched", perturbation="low_rank", rank=1) == []


def test_samples_count_as_rows(caplog, tmp_path):
    assert advice(caplog, tmp_path, temperature=1.0, num_generations=5) == []


def test_a_resumed_run_keeps_its_options(caplog, tmp_path):
    assert len(advice(caplog, tmp_path)) == 1
    assert advice(caplog, tmp_path, max_steps=2, resume=str(tmp_path / "run")) == []


def test_a_small_data_set_makes_small_batches(caplog, tmp_path):
    assert len(advice(caplog, tmp_path, prompts_per_iteration=200, rows=ROWS[:3])) == 1
    assert advice(caplog, tmp_path / "more", prompts_per_iteration=200) == []


@pytest.mark.parametrize("name", ["mamba", "gpt_oss"])
def test_models_that_batched_refuses(caplog, tmp_path, name):
    assert advice(caplog, tmp_path, engine_model=name) == []


def test_another_engine_knows_its_own_speed(caplog, tmp_path):
    assert advice(caplog, tmp_path, engine="tests/fake_engine.py:FakeEngine") == []
