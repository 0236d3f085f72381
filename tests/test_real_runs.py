"""A real instruct model: training, resume, two ranks, export, reload and replay give equal bits; tasks evaluate."""

from __future__ import annotations

import json
import re

import pytest
import torch
from pyarrow import parquet
from transformers import AutoModelForCausalLM, AutoTokenizer

from es_llm._core import Journal
from tests.commands import base_sha256, es_llm, result, rewards
from tests.trl_scripts import MODEL

pytestmark = [pytest.mark.smollm2, pytest.mark.timeout(900)]

REWARD = __file__.replace("test_real_runs.py", "reward_letters.py") + ":letters"
PROMPTS = ["Name two colors.", "What is the capital of France?"]
LENGTH = 8


def rows():
    return "".join(
        json.dumps({"prompt": [{"role": "user", "content": text}]}, sort_keys=True) + "\n" for text in PROMPTS
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Name -> directory of the same run: without a stop, stopped after an iteration and resumed, and on two ranks."""
    room = tmp_path_factory.mktemp("real")
    (room / "data").mkdir()
    for split in ("train", "test"):
        (room / "data" / f"{split}.jsonl").write_text(rows())
    options = [
        "--model_name_or_path", MODEL, "--dataset_name", str(room / "data"), "--reward_funcs", REWARD,
        "--population_size", "4", "--prompts_per_unit", "2", "--max_completion_length", str(LENGTH),
        "--eval_on_start", "false", "--log_completions", "true", "--sigma", "0.01", "--learning_rate", "0.01",
    ]  # fmt: skip
    whole, parts, spread = (str(room / name) for name in ("whole", "parts", "spread"))
    commands = [
        ([*options, "--max_steps", "2", "--output_dir", whole], None),
        ([*options, "--max_steps", "1", "--output_dir", parts], None),
        ([*options, "--max_steps", "2", "--resume_from_checkpoint", parts], None),
        ([*options, "--max_steps", "2", "--output_dir", spread], 2),
    ]
    for words, ranks in commands:
        process = es_llm("train", *words, ranks=ranks)
        assert process.returncode == 0, process.stderr
    return {name: room / name for name in ("whole", "parts", "spread")}


def records(directory):
    return [record.to_bytes() for record in Journal.read(directory / "journal.es").records]


def test_the_run_moves_the_weights(runs):
    whole = runs["whole"]
    assert result(whole)["parameters"] > 130_000_000
    assert result(whole)["weights_sha256"] != base_sha256(whole)
    assert all(reward > 0 for reward in rewards(whole))
    assert len(set(rewards(whole))) == 2


@pytest.mark.parametrize("other", ["parts", "spread"])
def test_every_way_gives_the_same_bits(runs, other):
    whole, same = runs["whole"], runs[other]
    assert result(same)["weights_sha256"] == result(whole)["weights_sha256"]
    assert records(same) == records(whole)
    assert result(same)["eval_after"] == result(whole)["eval_after"]
    assert (same / "model" / "model.safetensors").read_bytes() == (whole / "model" / "model.safetensors").read_bytes()


def test_two_ranks_took_part(runs):
    assert result(runs["spread"])["ranks"] == 2
    assert result(runs["spread"])["ranks_lost"] == 0


def test_a_replay_gives_the_same_bits(runs, tmp_path):
    process = es_llm("replay", str(runs["spread"]), "--output_dir", str(tmp_path / "replayed"))
    assert process.returncode == 0, process.stderr
    (sha256,) = re.findall(r"weights_sha256 (\w+)", process.stdout)
    assert sha256 == result(runs["whole"])["weights_sha256"]


def test_the_reloaded_model_answers_as_the_trained_one(runs):
    """The exported model and chat template are used without es_llm."""
    (file,) = (runs["whole"] / "completions").glob("eval-00002-*.parquet")
    logged = {
        json.loads(row["prompt"])[0]["content"]: row["completion"] for row in parquet.read_table(file).to_pylist()
    }
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(runs["whole"] / "model")
    tokenizer = AutoTokenizer.from_pretrained(runs["whole"] / "model", padding_side="left")
    chats = [[{"role": "user", "content": text}] for text in PROMPTS]
    inputs = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, return_tensors="pt", return_dict=True, padding=True
    )
    ids = model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)
    texts = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert dict(zip(PROMPTS, texts, strict=True)) == logged


@pytest.mark.parametrize("task", ["gsm8k", "math"])
def test_tasks_of_mathematics_evaluate(task):
    process = es_llm(
        "eval", "--task", task, "--model_name_or_path", MODEL, "--max_eval_samples", "2",
        "--max_completion_length", "16", "--task_args", "train_size=2", "eval_size=2",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    metrics = json.loads(process.stdout)
    assert 0.0 <= metrics["eval_reward"] <= 1.0
    assert 0 < metrics["eval_completions/mean_length"] <= 16
    assert not any("failures" in name for name in metrics)
