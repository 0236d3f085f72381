"""The embedded model is small and loads offline. Its greedy answers are wrong, but samples show that it knows the
task."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
import torch

from es_llm.tasks import load_task
from es_llm.tasks.countdown import PROMPT_WIDTH
from es_llm.tasks.countdown.reward import expression_reward

DIRECTORY = Path(str(resources.files("es_llm") / "assets" / "countdown-tiny"))
FILES = ["README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
FILES += ["tokenizer_config.json"]


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(DIRECTORY, local_files_only=True)


@pytest.fixture(scope="module")
def model():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(DIRECTORY, local_files_only=True).eval()


@pytest.fixture(scope="module")
def rows():
    return load_task("countdown", style="compact", train_size=1, eval_size=100, seed=7).eval


def test_directory_is_in_hf_layout_and_small():
    assert sorted(path.name for path in DIRECTORY.iterdir()) == sorted(FILES)
    assert sum(path.stat().st_size for path in DIRECTORY.iterdir()) <= 2_000_000


def test_model_loads_offline_in_float32(model, tokenizer):
    assert model.dtype == torch.float32
    assert 0.7e6 < model.num_parameters() < 0.9e6
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_tokenizer_has_one_token_per_byte_and_returns_every_text(tokenizer):
    from transformers import PreTrainedTokenizerFast

    same = PreTrainedTokenizerFast.from_pretrained(DIRECTORY, local_files_only=True)
    for text in [" 3 15 19= 31:", "(3+5)*7-8/2", "", "  ", "Any text, é and 漢 too.\n\tEnd"]:
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text.encode())
        assert tokenizer.decode(ids) == text
        assert same(text)["input_ids"] == ids
    assert tokenizer("1<eos>")["input_ids"][1:] == [tokenizer.eos_token_id]
    assert tokenizer.padding_side == "left"


def test_every_prompt_has_one_width_in_tokens(tokenizer, rows):
    assert {len(tokenizer(row["prompt"])["input_ids"]) for row in rows} == {PROMPT_WIDTH}


def _scores(model, tokenizer, rows, **decoding):
    prompts = tokenizer([row["prompt"] for row in rows], return_tensors="pt")
    tokens = model.generate(**prompts, max_new_tokens=12, **decoding)
    texts = tokenizer.batch_decode(tokens[:, PROMPT_WIDTH:], skip_special_tokens=True)
    return [expression_reward(text, row["numbers"], row["target"]) for text, row in zip(texts, rows, strict=True)]


def test_greedy_decoding_hides_the_ability(model, tokenizer, rows):
    assert sum(_scores(model, tokenizer, rows, do_sample=False)) / len(rows) < 0.05


def test_sampling_finds_the_ability(model, tokenizer, rows):
    torch.manual_seed(0)
    samples = [_scores(model, tokenizer, rows, do_sample=True, top_k=0) for _ in range(16)]
    assert sum(map(max, zip(*samples, strict=True))) / len(rows) > 0.3
