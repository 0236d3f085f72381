"""What is handed over as a model: modules that can't be asked for text are refused before any work."""

import pytest
import torch

from es_llm import ESConfig, ESTrainer
from es_llm.comm import SingleMailbox
from es_llm.errors import ConfigError
from es_llm.team import Team
from es_llm.trainer.arguments import require_model
from tests.tiny_models import tiny_model, tiny_tokenizer


class Headless(torch.nn.Module):
    """Has a configuration and no `generate`."""

    def __init__(self):
        super().__init__()
        self.config = tiny_model("llama").config
        self.layer = torch.nn.Linear(2, 2)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (torch.nn.Linear(2, 2), r"got a Linear without `config`, `generate`, .*`es_llm\.Population`"),
        (torch.nn.Sequential(torch.nn.Linear(2, 2)), r"got a Sequential without `config`"),
        (Headless(), r"got a Headless without `generate`"),
        (torch.nn.DataParallel(tiny_model("llama")), r"wrapped \(a DataParallel\), .* give `model\.module`"),
        (torch.compile(tiny_model("llama")), r"wrapped \(a OptimizedModule\), .* give `model\._orig_mod`"),
        (7, r"got 7 \(int\)"),
    ],
)
def test_other_modules_are_refused(model, match):
    with pytest.raises(ConfigError, match=match):
        ESTrainer(
            model=model,
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            processing_class=tiny_tokenizer(),
            args=ESConfig(population_size=2),
            train_dataset=[{"prompt": "1"}],
            team=Team(SingleMailbox()),
        )


def test_a_model_of_transformers_a_name_and_none_pass():
    for model in (tiny_model("llama"), tiny_model("rwkv"), "name", None):
        require_model(model)
