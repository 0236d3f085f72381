"""The model in the package: small, loads offline by the usual classes, fails greedily, and holds the ability."""

from importlib import resources

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

from es_llm.config.embedded import EMBEDDED_DEFAULTS
from es_llm.config.resolve import resolve
from es_llm.model.loading import load_model, load_tokenizer
from es_llm.rollout.hf import HFEngine
from es_llm.tasks import load_task
from es_llm.tasks.countdown import is_held_out

PLACE = resources.files("es_llm") / "assets" / "countdown-tiny"


@pytest.fixture(scope="module")
def task():
    return load_task("countdown", style="compact", train_size=100, eval_size=100)


def test_files():
    names = {path.name for path in PLACE.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert sum(len(path.read_bytes()) for path in PLACE.iterdir()) < 2_000_000
    assert "make_embedded_model.py" in (PLACE / "README.md").read_text()


def test_loads_by_the_usual_classes():
    model = AutoModelForCausalLM.from_pretrained(str(PLACE))
    assert isinstance(model, Qwen2ForCausalLM)
    assert model.num_parameters() == 826_240
    usual, ours = AutoTokenizer.from_pretrained(str(PLACE)), load_tokenizer(None)
    for text in (" 2 13 16= 31:", "(16+13)*2/1-0", "any text: é\n"):
        ids = usual(text)["input_ids"]
        assert ids == ours(text)["input_ids"]
        assert usual.decode(ids) == text


def test_greedy_answers_are_wrong_and_the_ability_is_there(task):
    model, tokenizer = load_model(None), load_tokenizer(None)
    engine = HFEngine(model, tokenizer, max_completion_length=EMBEDDED_DEFAULTS["max_completion_length"])
    completions = engine.evaluate([row["prompt"] for row in task.eval])
    accuracy = task.metric_funcs["accuracy"](
        completions=[c.text for c in completions],
        numbers=[row["numbers"] for row in task.eval],
        target=[row["target"] for row in task.eval],
    )
    assert sum(accuracy) < 5
    assert all(completion.finished for completion in completions)

    torch.manual_seed(0)
    inputs = tokenizer([row["prompt"] for row in task.eval], return_tensors="pt")
    solved = torch.zeros(len(task.eval))
    for _ in range(8):
        ids = model.generate(**inputs, do_sample=True, top_k=0, temperature=1.0, max_new_tokens=11)
        texts = tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        scores = task.metric_funcs["accuracy"](
            completions=texts,
            numbers=[row["numbers"] for row in task.eval],
            target=[row["target"] for row in task.eval],
        )
        solved = torch.maximum(solved, torch.tensor(scores))
    assert solved.mean() > 0.25


def test_the_default_run_keeps_its_problems_apart():
    script, config = resolve({})
    task = load_task(script.task, **script.task_args)
    assert len(task.eval) == 500
    assert config.prompts_per_iteration * config.max_steps <= len(task.train)
    assert all(is_held_out(row["numbers"], row["target"]) for row in task.eval)
    assert not any(is_held_out(row["numbers"], row["target"]) for row in task.train)
