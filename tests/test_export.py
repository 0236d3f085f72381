"""Exported directories: other tools load the same bits, and no crash leaves an incomplete directory."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils import logging

from es_llm import _core
from es_llm.checkpoint import export
from es_llm.checkpoint.export import export_model
from es_llm.errors import ModelError
from es_llm.model.live import DTYPES
from es_llm.model.loading import load_model, load_tokenizer
from es_llm.model.weights import Weights
from es_llm.rollout.engines.hf import HFEngine
from tests.tiny_models import ARCHITECTURES, tiny_model, tiny_tokenizer

PROMPTS = ["1 + 2 = ", "what is this", "3", "abc xyz\n"] * 4


def trained(name, dtype):
    """A model after one update, with its live weights unperturbed."""
    model = tiny_model(name)
    weights = Weights(model, dtype=dtype)
    record = _core.Population(run_seed=5, population_size=4).tell([0.0, 1.0, 3.0, 2.0], sigma=0.01, learning_rate=0.02)
    weights.update(record)
    weights.unperturb()
    return model


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_transformers_loads_it_with_equal_bits_and_answers(name, dtype, tmp_path, capfd):
    model = trained(name, dtype)
    export_model(tmp_path / "model", model, tiny_tokenizer())
    capfd.readouterr()
    logging.disable_progress_bar()
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    logging.enable_progress_bar()
    assert capfd.readouterr() == ("", ""), "no warnings"
    assert not any(info.values())
    assert loaded.dtype == DTYPES[dtype]
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == dtype
    inputs = tiny_tokenizer()(PROMPTS, return_tensors="pt", padding=True)
    with torch.inference_mode():
        assert torch.equal(model(**inputs).logits, loaded.eval()(**inputs).logits)
    own = HFEngine(model, tiny_tokenizer(), max_completion_length=16)
    other = HFEngine(loaded, load_tokenizer(tmp_path / "model"), max_completion_length=16)
    assert own.complete(PROMPTS) == other.complete(PROMPTS)


def test_a_tokenizer_may_write_a_directory_of_templates(tmp_path):
    class Tokenizer:
        def save_pretrained(self, directory):
            (directory / "additional_chat_templates").mkdir()
            (directory / "additional_chat_templates" / "tool_use.jinja").write_text("{}")

    for _ in range(2):
        export_model(tmp_path / "model", tiny_model("llama"), Tokenizer())
    assert (tmp_path / "model" / "additional_chat_templates" / "tool_use.jinja").read_text() == "{}"


def test_the_generation_defaults_are_kept_even_odd_ones(tmp_path):
    model = tiny_model("llama")
    model.generation_config = GenerationConfig(temperature=0.3, repetition_penalty=1.1, eos_token_id=[1, 7])
    export_model(tmp_path / "model", model, tiny_tokenizer())
    stored = json.loads((tmp_path / "model" / "generation_config.json").read_text())
    assert {"temperature": 0.3, "repetition_penalty": 1.1, "eos_token_id": [1, 7]}.items() <= stored.items()
    assert model.generation_config.repetition_penalty == 1.1


def test_an_older_export_is_replaced_whole(tmp_path):
    target = tmp_path / "model"
    export_model(target, tiny_model("llama"), tiny_tokenizer())
    (target / "stale.json").write_text("{}")
    export_model(target, tiny_model("gpt2"), tiny_tokenizer())
    assert names(tmp_path) == ["model"]
    assert "stale.json" not in names(target)
    assert type(load_model(target)).__name__ == "GPT2LMHeadModel"


@pytest.mark.parametrize("strange", ["journal.esj", "notes", "checkpoint-3/"])
def test_a_directory_with_other_files_is_left_alone(tmp_path, strange):
    target = tmp_path / "run"
    target.mkdir()
    (target / strange).mkdir() if strange.endswith("/") else (target / strange).touch()
    with pytest.raises(ModelError, match=f"no export wrote \\({strange.rstrip('/')}\\)"):
        export_model(target, tiny_model("llama"), tiny_tokenizer())
    assert names(tmp_path) == ["run"]
    assert names(target) == [strange.rstrip("/")]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "model").touch()
    with pytest.raises(ModelError, match="got a file"):
        export_model(tmp_path / "model", tiny_model("llama"), tiny_tokenizer())


def test_missing_parents_are_made(tmp_path):
    export_model(tmp_path / "a" / "b" / "model", tiny_model("llama"), tiny_tokenizer())
    assert names(tmp_path / "a" / "b") == ["model"]


def test_a_full_disk_leaves_the_older_export(tmp_path, monkeypatch):
    target = tmp_path / "model"
    export_model(target, tiny_model("llama"), tiny_tokenizer())
    before = {name: (target / name).read_bytes() for name in names(target)}

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export, "_sync", full)
    with pytest.raises(ModelError, match=r"can't be exported.*No space left"):
        export_model(target, tiny_model("gpt2"), tiny_tokenizer())
    assert names(tmp_path) == ["model"]
    assert {name: (target / name).read_bytes() for name in names(target)} == before


def test_everything_is_on_the_disk_before_the_rename(tmp_path, monkeypatch):
    synced, renamed = [], []
    sync, swap = export._sync, export._swap
    monkeypatch.setattr(export, "_sync", lambda path: (synced.append(path.name), sync(path)))
    monkeypatch.setattr(export, "_swap", lambda staged, target: (renamed.extend(synced), swap(staged, target)))
    export_model(tmp_path / "model", tiny_model("llama"), tiny_tokenizer())
    assert set(names(tmp_path / "model")) <= set(renamed)
    assert ".model.new" in renamed
