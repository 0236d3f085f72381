"""Live weights and buffers have the types that transformers' loading gives them, even if a class keeps some in
float32."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from es_llm.errors import ModelError
from es_llm.model.declared import declared_types, without_gradient
from es_llm.model.live import DTYPES
from es_llm.model.loading import load_model
from es_llm.model.table import ParameterTable
from es_llm.model.weights import Weights
from tests.tiny_models import ARCHITECTURES, FURTHER, tiny_model

BIAS = "model.layers.1.mlp.gate.moe_statics.e_score_correction_bias"


def types(model):
    tensors = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tensor.dtype for name, tensor in tensors}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [*ARCHITECTURES, *FURTHER])
def test_types_and_values_are_those_of_transformers_loading(name, dtype, tmp_path):
    tiny_model(name).save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=DTYPES[dtype])
    ours = load_model(tmp_path)
    Weights(ours, dtype=dtype)
    assert types(ours) == types(theirs)
    for (key, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, other), key
    for (key, one), other in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=key)


def test_a_correction_bias_keeps_its_values_and_isnt_trained(tmp_path):
    model = tiny_model("ernie4_5_moe", moe_num_experts=64)
    bias = dict(model.named_parameters())[BIAS]
    bias.data = torch.linspace(0.9, 1.1, 64).reshape(bias.shape)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert dict(loaded.named_parameters())[BIAS].requires_grad, "transformers forgets it"
    weights = Weights(loaded, dtype="bfloat16")
    live = dict(loaded.named_parameters())[BIAS]
    assert torch.equal(live, bias)
    assert len(live.unique()) == 64
    assert BIAS not in {parameter.name for parameter in weights.table.parameters}
    assert "model.layers.1.mlp.gate.weight" in {parameter.name for parameter in weights.table.parameters}
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32, torch.bfloat16}


@pytest.mark.parametrize("name", [*ARCHITECTURES, *FURTHER])
def test_parameters_that_a_class_creates_without_gradient(name):
    model = tiny_model(name)
    declared = {key for key, weight in model.named_parameters() if not weight.requires_grad}
    assert without_gradient(model.requires_grad_(True)) == declared
    assert bool(declared) == (name == "ernie4_5_moe")


def test_the_table_of_a_journal_alone_decides_what_is_trained():
    model = tiny_model("ernie4_5_moe").requires_grad_(True)
    shapes = {name: list(weight.shape) for name, weight in model.named_parameters()}
    entries = [{"name": name, "shape": shapes[name]} for name in (BIAS, "lm_head.weight")]
    weights = Weights(model, ParameterTable.from_json(entries))
    assert [tuple(master.shape) for master in weights.master] == [tuple(entry["shape"]) for entry in entries]
    with pytest.raises(ModelError, match="the model has no parameter `eye`"):
        Weights(model, ParameterTable.from_json([{"name": "eye", "shape": [1]}]))


def test_modules_of_other_libraries_are_cast_as_a_whole():
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    assert without_gradient(module) == frozenset()
    kinds = declared_types(module, torch.bfloat16)
    assert kinds["0.weight"] == torch.bfloat16
    assert kinds["1.running_mean"] == torch.float32
    Weights(module, dtype="bfloat16")
    assert types(module)["1.running_mean"] == torch.float32
