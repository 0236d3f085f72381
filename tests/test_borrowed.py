"""Settings of a model, a tokenizer and torch that the user changed don't change a run, and are the same after it."""

import pytest
import torch

from es_llm import ESConfig, ESTrainer
from es_llm.comm import SingleMailbox
from es_llm.rollout.engines.hf import HFEngine
from es_llm.team import Team
from tests.reward_digits import digits
from tests.tiny_models import tiny_model, tiny_tokenizer

PROMPTS = ["1 + 2 =", "7", "Say a number:", "((12))"]
DROPOUT = {"attn_pdrop": 0.5, "embd_pdrop": 0.5, "resid_pdrop": 0.5}


def run(model, tokenizer, tmp_path, name="run"):
    """SHA-256 of the weights after a short run."""
    trainer = ESTrainer(
        model=model,
        reward_funcs=digits,
        processing_class=tokenizer,
        args=ESConfig(
            population_size=4, sigma=0.3, learning_rate=0.3, max_steps=2, max_completion_length=6,
            prompts_per_iteration=4, output_dir=str(tmp_path / name),
        ),
        train_dataset=[{"prompt": prompt} for prompt in PROMPTS],
        eval_dataset=[{"prompt": prompt} for prompt in PROMPTS],
        team=Team(SingleMailbox()),
    )  # fmt: skip
    return trainer.train().metrics["weights_sha256"]


def training(model, _):
    model.train()


def part_in_training(model, _):
    model.transformer.h[1].train()


def checkpointing(model, _):
    model.train()
    model.gradient_checkpointing_enable()


def without_cache(model, _):
    model.config.use_cache = False


def tuples(model, _):
    model.config.return_dict = False


def hidden_states(model, _):
    model.config.output_hidden_states = True


def defaults(model, _):
    model.generation_config.do_sample = True
    model.generation_config.temperature = 3.0
    model.generation_config.max_length = 3
    model.generation_config.num_beams = 4


def padding(_, tokenizer):
    tokenizer.padding_side = "right"
    tokenizer.truncation_side = "left"
    tokenizer.model_max_length = 3


def truncation(_, tokenizer):
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=50)


CHANGES = [
    training,
    part_in_training,
    checkpointing,
    without_cache,
    tuples,
    hidden_states,
    defaults,
    padding,
    truncation,
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", CHANGES)
def test_settings_of_the_user_have_no_effect(change, tmp_path):
    wanted = run(tiny_model("gpt2", **DROPOUT), tiny_tokenizer(), tmp_path, "plain")
    model, tokenizer = tiny_model("gpt2", **DROPOUT), tiny_tokenizer()
    change(model, tokenizer)
    modes = [module.training for module in model.modules()]
    options = {name: getattr(model.config, name) for name in ("use_cache", "return_dict", "output_hidden_states")}
    defaults_before = model.generation_config.to_dict()
    assert run(model, tokenizer, tmp_path) == wanted
    assert [module.training for module in model.modules()] == modes
    assert options == {name: getattr(model.config, name) for name in options}
    assert model.generation_config.to_dict() == defaults_before
    assert tokenizer.padding_side == ("right" if change is padding else "left")


@pytest.mark.parametrize("loop", [True, False])
def test_autocast_and_the_default_type_have_no_effect(loop):
    model = tiny_model("llama")
    plain = HFEngine(model, tiny_tokenizer(), max_completion_length=24, loop=loop)
    wanted = plain.complete(PROMPTS)
    scores = plain.log_probs(PROMPTS, wanted)
    for default in (torch.bfloat16, torch.float64):
        torch.set_default_dtype(default)
        try:
            with torch.autocast("cpu", torch.bfloat16):
                own = HFEngine(model, tiny_tokenizer(), max_completion_length=24, loop=loop)
                assert own.complete(PROMPTS) == wanted
                assert all(map(torch.equal, own.log_probs(PROMPTS, wanted), scores))
                assert torch.is_autocast_enabled("cpu")
            assert torch.get_default_dtype() == default
        finally:
            torch.set_default_dtype(torch.float32)


def test_an_error_leaves_the_module_as_it_was():
    model = tiny_model("gpt2").train()
    own = HFEngine(model, tiny_tokenizer(), max_completion_length=4)
    model.forward = lambda **_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        own._complete(PROMPTS, lambda *_: model.forward())
    assert model.training
    assert model.transformer.h[0].training
