"""The whole loop on small random models of each architecture, from a local directory to an export that loads."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from es_llm import ESConfig, ESTrainer
from es_llm.comm import SingleMailbox
from es_llm.model.loading import load_tokenizer
from es_llm.rollout.engines.hf import HFEngine
from es_llm.team import Team
from tests.reward_digits import digits
from tests.tiny_models import ARCHITECTURES, tiny_model, tiny_tokenizer

PROMPTS = ["1 + 2 =", "7", "Say a number:", "((12))"]
"""Prompts of different lengths, so that batches are padded."""


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_train_export_load(tmp_path, name):
    tiny_model(name).save_pretrained(tmp_path / "base")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    trainer = ESTrainer(
        model=str(tmp_path / "base"),
        reward_funcs=digits,
        args=ESConfig(
            population_size=4, sigma=0.05, learning_rate=0.05, max_steps=3, max_completion_length=6,
            prompts_per_iteration=4, dtype="bfloat16", output_dir=str(tmp_path / "run"),
        ),
        train_dataset=[{"prompt": prompt} for prompt in PROMPTS],
        eval_dataset=[{"prompt": prompt} for prompt in PROMPTS],
        team=Team(SingleMailbox()),
    )  # fmt: skip
    base = trainer.run.weights.sha256()
    output = trainer.train()
    assert output.metrics["weights_sha256"] != base

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert model.dtype == torch.bfloat16
    for (key, ours), (_, theirs) in zip(trainer.model.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), key
    engine = HFEngine(model.eval(), load_tokenizer(tmp_path / "run" / "model"), max_completion_length=6, loop=False)
    assert [c.text for c in engine.complete(PROMPTS)] == [answer for _, answer in output.answers_after]
