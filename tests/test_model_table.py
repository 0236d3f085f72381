"""The parameter table: order, tied weights once, frozen names, and what it refuses."""

import json

import pytest
import torch

from es_llm._core import LowRank
from es_llm.errors import ConfigError, KernelError, ModelError
from es_llm.model.selection import Selection
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


def test_json_round_trip():
    table = ParameterTable.from_module(tiny_model("qwen3"))
    assert ParameterTable.from_json(json.loads(json.dumps(table.to_json()))) == table


def test_low_rank_noise_is_for_matrices():
    model = tiny_model("qwen2")
    table = ParameterTable.from_module(model, perturbation="low_rank", rank=2)
    for parameter in table.parameters:
        if len(parameter.shape) == 2:
            assert parameter.perturbed == LowRank(parameter.tensor, parameter.shape, 2)
        else:
            assert parameter.perturbed == parameter.whole
    names = [parameter.name for parameter in table.parameters if isinstance(parameter.perturbed, LowRank)]
    assert "model.embed_tokens.weight" in names  # the tied head, once
    assert 0 < len(names) < len(table.parameters)
    dense = ParameterTable.from_module(model)
    assert [row.whole for row in table.parameters] == [row.whole for row in dense.parameters]


def test_the_json_of_dense_tables_is_as_in_old_journals():
    entries = ParameterTable.from_module(tiny_model("qwen2")).to_json()
    assert entries[0] == {"name": "model.embed_tokens.weight", "shape": [89, 32]}
    assert {tuple(entry) for entry in entries} == {("name", "shape")}


def test_the_json_of_a_low_rank_table_names_the_perturbation_of_each_tensor():
    table = ParameterTable.from_module(tiny_model("qwen2"), perturbation="low_rank", rank=3)
    entries = json.loads(json.dumps(table.to_json()))
    assert entries[0] == {"name": "model.embed_tokens.weight", "shape": [89, 32], "perturbation": "low_rank", "rank": 3}
    assert {"name": "model.norm.weight", "shape": [32]} in entries
    assert ParameterTable.from_json(entries) == table != ParameterTable.from_module(tiny_model("qwen2"))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [({"perturbation": "sparse"}, ConfigError, "unknown perturbation 'sparse'"), ({"rank": 0}, KernelError, "`rank`")],
)
def test_an_unknown_perturbation_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        ParameterTable.from_module(tiny_model("llama"), **{"perturbation": "low_rank", **options})


@pytest.mark.parametrize(
    "entries", [[{}], [{"name": "a"}], [{"name": "a", "shape": "x"}], [3], [{"name": "a", "shape": [-1]}]]
)
def test_json_that_is_no_table_is_refused(entries):
    with pytest.raises(ModelError, match="not a parameter table"):
        ParameterTable.from_json(entries)


def test_frozen_names_and_requires_grad_are_out():
    model = tiny_model("llama")
    everything = ParameterTable.from_module(model)
    model.lm_head.weight.requires_grad_(False)
    table = ParameterTable.from_module(model, Selection(exclude=["*norm.weight", "model.embed_tokens.weight"]))
    names = [p.name for p in table.parameters]
    assert names == [
        p.name
        for p in everything.parameters
        if not p.name.endswith(("norm.weight", "tokens.weight")) and p.name != "lm_head.weight"
    ]
    assert [p.tensor for p in table.parameters] == list(range(len(names)))


def test_a_tied_weight_is_frozen_under_any_of_its_names():
    model = tiny_model("qwen2")
    names = {p.name for p in ParameterTable.from_module(model, Selection(exclude=["lm_head.weight"])).parameters}
    assert "model.embed_tokens.weight" not in names


def test_only_trainable_parameters_are_in_and_frozen_wins():
    model = tiny_model("qwen2")
    names = [name for name, _ in model.named_parameters()]

    def chosen(include, exclude=()):
        return [row.name for row in ParameterTable.from_module(model, Selection(include, exclude)).parameters]

    assert chosen(["*q_proj*", "model.norm.weight"]) == [n for n in names if "q_proj" in n or n == "model.norm.weight"]
    assert chosen(["*q_proj*"], ["*.bias"]) == [n for n in names if n.endswith("q_proj.weight")]
    assert chosen(["lm_head.weight"]) == ["model.embed_tokens.weight"]  # tied: by any name
    model.model.norm.weight.requires_grad_(False)
    assert chosen(["model.norm.weight", "*q_proj.bias"]) == [n for n in names if n.endswith("q_proj.bias")]


def test_a_pattern_that_matches_nothing_is_refused_with_the_nearest_names():
    for option, selection in (
        ("frozen", Selection(exclude=["lm_haed.weight"])),
        ("trainable", Selection(include=["*norm.weight", "lm_haed.weight"])),
    ):
        with pytest.raises(ModelError, match=rf"`{option}`: .*'lm_haed\.weight' matches no parameter.*lm_head\.weight"):
            ParameterTable.from_module(tiny_model("llama"), selection)


def test_no_trainable_parameter_is_refused():
    with pytest.raises(ModelError, match="no trainable parameter: 21 in all, 21 excluded by `trainable` or `frozen`"):
        ParameterTable.from_module(tiny_model("llama"), Selection(exclude=["*"]))
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
