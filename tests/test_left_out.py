"""Weights in a model's files that its class doesn't load are found, reported, and kept in the export."""

import json
import logging
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, Qwen3_5Config, Qwen3_5ForConditionalGeneration

from es_llm import ESConfig, ESTrainer
from es_llm.checkpoint.export import export_model
from es_llm.comm import SingleMailbox
from es_llm.model.left_out import NOTE, left_out_of
from es_llm.model.loading import load_model, stored_dtype
from es_llm.model.weights import Weights
from es_llm.team import Team
from tests.reward_digits import digits
from tests.tiny_models import EOS, PAD, VOCABULARY, tiny_model, tiny_tokenizer

TEXT = {
    "vocab_size": len(VOCABULARY), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"], "eos_token_id": EOS, "pad_token_id": PAD,
}  # fmt: skip
EYES = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32, "patch_size": 4,
    "spatial_merge_size": 2, "temporal_patch_size": 1, "num_position_embeddings": 16, "in_channels": 3,
}  # fmt: skip


@pytest.fixture
def with_eyes(tmp_path):
    """A Qwen3.5 with text and vision; transformers' causal class loads only the text part."""
    torch.manual_seed(0)
    config = Qwen3_5Config(text_config=TEXT, vision_config=EYES, tie_word_embeddings=False)
    model = Qwen3_5ForConditionalGeneration(config)
    model.save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "preprocessor_config.json").write_text("{}")
    return tmp_path / "base"


def tensors(directory):
    return {name: tensor for path in directory.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_an_export_of_the_text_part_is_a_whole_model(with_eyes, tmp_path):
    model = load_model(with_eyes)
    left = left_out_of(model)
    assert all(name.startswith("model.visual.") for name in left.names)
    assert "model.visual.*" in left.message()
    assert "Qwen3_5ForCausalLM" in left.message()
    before = tensors(with_eyes)
    for weight in model.parameters():
        weight.data.add_(1.0)
    export_model(tmp_path / "out", model, tiny_tokenizer())
    after = tensors(tmp_path / "out")
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name]) == (name in left.names), name
    whole = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert torch.equal(whole.lm_head.weight, model.lm_head.weight)
    assert torch.equal(dict(whole.named_parameters())[left.names[0]], before[left.names[0]])
    again = load_model(tmp_path / "out")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert left_out_of(again).names == left.names
    assert (tmp_path / "out" / "preprocessor_config.json").exists()
    assert json.loads((tmp_path / "out" / NOTE).read_text())["weights"] == list(left.names)
    export_model(tmp_path / "out", again, tiny_tokenizer())  # an export replaces an export


def test_the_type_of_an_export_is_that_of_its_weights(with_eyes, tmp_path):
    model = load_model(with_eyes)
    Weights(model, dtype="bfloat16")
    export_model(tmp_path / "out", model, tiny_tokenizer())
    assert stored_dtype(tmp_path / "out") == "bfloat16"
    assert tensors(tmp_path / "out")["lm_head.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "lost"),
    [
        ("ernie4_5_moe", ["model.mtp_block.0.mlp.weight", "model.mtp_emb_norm.0.weight"]),
        ("qwen3_next", ["mtp.fc.weight"]),
        ("llama", []),
        ("gpt_neox", []),
    ],
)
def test_layers_for_prediction_ahead_are_kept_and_computed_tables_are_not(name, lost, tmp_path):
    model = tiny_model(name)
    model.save_pretrained(tmp_path / "base")
    path = tmp_path / "base" / "model.safetensors"
    extra = {key: torch.randn(4, 4) for key in lost}
    if name == "gpt_neox":
        extra["gpt_neox.layers.0.attention.bias"] = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    save_file({**load_file(path), **extra}, path, metadata={"format": "pt"})
    loaded = load_model(tmp_path / "base")
    left = left_out_of(loaded)
    assert (list(left.names) if left else []) == sorted(lost)
    export_model(tmp_path / "out", loaded, tiny_tokenizer())
    after = tensors(tmp_path / "out")
    assert all(torch.equal(after[key], extra[key]) for key in lost)
    assert (tmp_path / "out" / NOTE).exists() == bool(lost)
    again = load_model(tmp_path / "out")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), again.parameters(), strict=True))


def test_a_run_reports_left_out_weights_and_exports_without_the_base(with_eyes, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = ESTrainer(
            model=str(with_eyes),
            reward_funcs=digits,
            args=ESConfig(
                population_size=2, max_steps=1, max_completion_length=3, prompts_per_iteration=2, save_steps=1,
                eval_on_start=False, output_dir=str(tmp_path / "run"),
            ),
            train_dataset=[{"prompt": prompt} for prompt in ("1 + 2 =", "7")],
            team=Team(SingleMailbox()),
        )  # fmt: skip
    assert "weights have no part in Qwen3_5ForCausalLM" in caplog.text
    trainer.train()
    assert any(name.startswith("model.visual.") for name in tensors(tmp_path / "run" / "model"))
    shutil.rmtree(with_eyes)
    caplog.clear()
    trainer.save_model(str(tmp_path / "late"))
    assert "which can't be read" in caplog.text
    assert "lm_head.weight" in tensors(tmp_path / "late")
