"""A model computes with other weights than its own, which are made one at a time."""

import copy
import weakref

import pytest
import torch

from es_llm.rollout.replaced import in_float32, replaced
from tests.tiny_models import ARCHITECTURES, tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = torch.tensor([[8, 9, 10, 30, 12]])


def logits(model):
    with torch.inference_mode():
        return model(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize("name", [*ARCHITECTURES, "mixtral", "qwen3_moe", "deepseek_v3", "mamba"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_is_that_of_a_copy_in_float32(name, dtype):
    model = tiny_model(name).to(dtype)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    whole = logits(copy.deepcopy(model).float())
    with in_float32(model):
        found = logits(model)
    assert found.dtype == torch.float32
    assert torch.equal(found, whole)
    assert not torch.equal(logits(model).float(), whole)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert {tensor.dtype for tensor in model.parameters()} == {dtype}


@pytest.mark.parametrize("name", ["qwen2", "gpt2", "gemma", "qwen3_moe"])
def test_every_use_of_a_weight_is_replaced(name):
    model = tiny_model(name)
    doubled = copy.deepcopy(model)
    for weight in doubled.parameters():
        weight.data.mul_(2)
    with replaced(model, lambda weight: 2 * weight):
        assert torch.equal(logits(model), logits(doubled))


def test_a_weight_may_be_used_outside_its_module():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(3, 3, dtype=torch.bfloat16)

        def forward(self, x):
            parts = [self.inner.weight, self.inner.weight.T]
            assert (self.inner.weight.dtype, self.inner.weight.shape) == (torch.float32, (3, 3))
            return torch.cat(parts) @ x.to(self.inner.weight.dtype) + self.inner.weight.data.sum()

    odd, x = Odd(), torch.ones(3)
    with in_float32(odd):
        found = odd(x)
    assert torch.equal(found, copy.deepcopy(odd).float()(x))


def test_one_weight_lives_at_a_time():
    model, alive, most = tiny_model("llama").bfloat16(), set(), []

    def wide(weight):
        made = weight.detach().float()
        alive.add(id(made))
        weakref.finalize(made, alive.discard, id(made))
        most.append(len(alive))
        return made

    with replaced(model, wide):
        logits(model)
    assert len(most) >= sum(1 for _ in model.parameters())
    assert max(most) == 1


def test_everything_is_restored_after_an_error():
    model = tiny_model("llama").bfloat16()
    before = logits(model)
    with pytest.raises(RuntimeError, match="stop"), in_float32(model):
        raise RuntimeError("stop")
    assert torch.equal(logits(model), before)
