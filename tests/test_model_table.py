"""The parameter table: order, tied weights once, frozen names, and what it refuses."""

import json

import pytest
import torch

from es_llm.errors import ModelError
from es_llm.model.table import ParameterTable
from tests.tiny_models import ARCHITECTURES, tiny_model


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_order_is_that_of_the_module_and_tied_weights_come_once(name):
    model = tiny_model(name)
    table = ParameterTable.from_module(model)
    assert [p.name for p in table.parameters] == [n for n, _ in model.named_parameters()]
    assert [p.shape for p in table.parameters] == [tuple(w.shape) for w in model.parameters()]
    assert [p.tensor for p in table.parameters] == list(range(len(table.parameters)))
    assert table.elements == sum(w.numel() for w in model.parameters())
    head = model.get_output_embeddings().weight
    tied = head is model.get_input_embeddings().weight
    assert tied == model.config.tie_word_embeddings
    assert sum(p.shape == tuple(head.shape) for p in table.parameters) == (1 if tied else 2)


@pytest.mark.parametrize("name", ["qwen2", "gpt2", "gpt_neox"])
def test_two_models_of_one_architecture_have_equal_tables(name):
    one, two = (ParameterTable.from_module(tiny_model(name, seed=seed)) for seed in (0, 1))
    assert one == two
    assert one.difference(two) is None


def test_json_round_trip():
    table = ParameterTable.from_module(tiny_model("qwen3"))
    assert ParameterTable.from_json(json.loads(json.dumps(table.to_json()))) == table


@pytest.mark.parametrize(
    "entries", [[{}], [{"name": "a"}], [{"name": "a", "shape": "x"}], [3], [{"name": "a", "shape": [-1]}]]
)
def test_json_that_is_no_table_is_refused(entries):
    with pytest.raises(ModelError, match="not a parameter table"):
        ParameterTable.from_json(entries)


def test_difference_names_the_first():
    qwen2, untied, qwen3 = (ParameterTable.from_module(tiny_model(name)) for name in ("qwen2", "qwen2-untied", "qwen3"))
    assert "lm_head.weight" in qwen2.difference(untied)
    assert "26 tensors here and 27 there" in qwen2.difference(untied)
    assert "q_proj.bias` here and `model.layers.0.self_attn.k_proj.weight` there" in qwen2.difference(qwen3)
    wider = ParameterTable.from_module(tiny_model("qwen2", intermediate_size=56))
    assert "has shape [48, 32] here and [56, 32] there" in qwen2.difference(wider)


def test_frozen_names_and_requires_grad_are_out():
    model = tiny_model("llama")
    everything = ParameterTable.from_module(model)
    model.lm_head.weight.requires_grad_(False)
    table = ParameterTable.from_module(model, frozen=["*norm.weight", "model.embed_tokens.weight"])
    names = [p.name for p in table.parameters]
    assert names == [
        p.name
        for p in everything.parameters
        if not p.name.endswith(("norm.weight", "tokens.weight")) and p.name != "lm_head.weight"
    ]
    assert [p.tensor for p in table.parameters] == list(range(len(names)))


def test_a_tied_weight_is_frozen_under_any_of_its_names():
    model = tiny_model("qwen2")
    names = {p.name for p in ParameterTable.from_module(model, frozen=["lm_head.weight"]).parameters}
    assert "model.embed_tokens.weight" not in names


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_names():
    with pytest.raises(ModelError, match=r"'lm_haed\.weight' matches no parameter.*lm_head\.weight"):
        ParameterTable.from_module(tiny_model("llama"), frozen=["lm_haed.weight"])


def test_no_trainable_parameter_is_refused():
    with pytest.raises(ModelError, match="no trainable parameter: 21 in all, 21 frozen"):
        ParameterTable.from_module(tiny_model("llama"), frozen=["*"])
    with pytest.raises(ModelError, match="no trainable parameter: 0 in all"):
        ParameterTable.from_module(torch.nn.ReLU())


def test_limits_of_a_noise_address(monkeypatch):
    model = tiny_model("llama")
    monkeypatch.setattr("es_llm.model.table.MAX_TENSORS", 20)
    with pytest.raises(ModelError, match="21 trainable tensors, expected at most 20"):
        ParameterTable.from_module(model)
    monkeypatch.setattr("es_llm.model.table.MAX_TENSORS", 21)
    monkeypatch.setattr("es_llm.model.table.MAX_ELEMENTS", 1000)
    with pytest.raises(ModelError, match=r"`model\.embed_tokens\.weight` has \d+ elements, expected at most 1000"):
        ParameterTable.from_module(model)


def test_integer_parameters_are_out():
    module = torch.nn.Linear(3, 2)
    module.table = torch.nn.Parameter(torch.arange(3), requires_grad=False)
    assert [p.name for p in ParameterTable.from_module(module).parameters] == ["weight", "bias"]
