"""Live weights in an engine's tensors: parts of fused tensors get the bits of the module's parameters."""

import pytest
import torch

from es_llm._core import Population
from es_llm.errors import ModelError
from es_llm.model.table import ParameterTable
from es_llm.model.targets import Target, own_targets
from es_llm.model.weights import Weights
from tests.tiny_models import tiny_model

FUSED = ("q_proj", "k_proj", "v_proj")


def fused_targets(model, *, halves):
    """The model's parameters, with q, k and v of each layer in one tensor, and the embedding in two halves."""
    targets, fused = [], {}
    for name, weight in model.named_parameters():
        part = next((part for part in FUSED if f".{part}.weight" in name), None)
        if name == "model.embed_tokens.weight" and halves:
            for rows in (slice(0, 30), slice(30, None)):
                targets.append(Target(name, rows, torch.empty_like(weight[rows])))
        elif part is None:
            targets.append(Target(name, slice(None), torch.empty_like(weight)))
        else:
            layer = name.partition(part)[0]
            sizes = [model.get_parameter(f"{layer}{other}.weight").shape[0] for other in FUSED]
            whole = fused.setdefault(layer, torch.empty(sum(sizes), weight.shape[1]))
            targets.append(Target(name, slice(None), whole.split(sizes)[FUSED.index(part)]))
    return targets


def contents(targets):
    """Each parameter's live weights, joined from its targets."""
    names = dict.fromkeys(target.name for target in targets)
    return {name: torch.cat([t.tensor.detach() for t in targets if t.name == name]) for name in names}


@pytest.mark.parametrize("halves", [False, True])
def test_fused_tensors_of_an_engine_get_the_same_bits(halves):
    module, other = tiny_model("llama"), tiny_model("llama")
    own, targets = Weights(module), fused_targets(other, halves=halves)
    weights = Weights(other, targets=targets)
    population = Population(run_seed=3, population_size=4)
    member = population.ask(sigma=0.1)[2]
    base = {name: weight.clone() for name, weight in other.named_parameters()}
    for each in (own, weights):
        each.perturb(member)
    assert all(torch.equal(contents(targets)[name], weight) for name, weight in module.named_parameters())
    assert all(torch.equal(base[name], weight) for name, weight in other.named_parameters()), "the module is left alone"
    record = population.tell([1.0, 2.0, 3.0, 5.0], sigma=0.1, learning_rate=0.1)
    for each in (own, weights):
        each.update(record)
        each.unperturb()
    assert own.digest() == weights.digest()
    assert all(torch.equal(contents(targets)[name], weight) for name, weight in module.named_parameters())
    weights.write_module()
    assert all(torch.equal(weight, other.get_parameter(name)) for name, weight in module.named_parameters())


def test_a_parameter_outside_the_table_needs_no_target_and_keeps_its_values():
    model, name = tiny_model("llama"), "lm_head.weight"
    before = model.get_parameter(name).detach().clone()
    targets = own_targets(model, {name})
    weights = Weights(model, ParameterTable.from_module(model, unused={name}), targets=targets)
    weights.perturb(Population(run_seed=1, population_size=4).ask(sigma=0.1)[0])
    assert torch.equal(model.get_parameter(name), before)
    with pytest.raises(ModelError, match=r"`lm_head\.weight`: the engine has targets for 0 of 89 rows, expected all"):
        Weights(model, targets=targets)


@pytest.mark.parametrize(
    ("rows", "shape", "message"),
    [
        ((slice(0, 10),), None, "targets for 10 of 89 rows"),
        ((slice(0, 10), slice(20, None)), None, r"target for the rows \[20, 89\)"),
        ((slice(None), slice(None)), None, r"target for the rows \[0, 89\)"),
        ((slice(None),), (89, 31), r"has shape \[89, 31\]; expected each row in one target, and \[89, 32\]"),
    ],
)
def test_targets_that_do_not_fit_are_refused(rows, shape, message):
    model = tiny_model("llama")
    name, weight = "model.embed_tokens.weight", model.model.embed_tokens.weight
    assert len(weight) == 89
    wrong = [Target(name, part, torch.empty(shape) if shape else weight[part].detach().clone()) for part in rows]
    with pytest.raises(ModelError, match=message):
        Weights(model, targets=[*own_targets(model, {name}), *wrong])
