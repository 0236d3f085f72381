"""Objects given as `model`: modules that can't generate text are refused before any work."""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import LlamaConfig

from es_llm import ESConfig, ESTrainer
from es_llm.comm import SingleMailbox
from es_llm.errors import ConfigError
from es_llm.team import Team
from es_llm.trainer.assembly.arguments import require_model, require_tokenizer
from es_llm.trainer.assembly.rows import rows_of
from tests.tiny_models import tiny_model, tiny_tokenizer


class Headless(torch.nn.Module):
    """A module with a configuration but without `generate`."""

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
        (7, r"got 7 \(int\)$"),
        (LlamaConfig(), r"got a LlamaConfig; .*`AutoModelForCausalLM\.from_config`[^\n]*$"),
        (type(tiny_model("llama")), r"got the class LlamaForCausalLM; give an instance, such as its `from_pretrained`"),
        (SimpleNamespace(model=tiny_model("llama")), r"got a SimpleNamespace; give its `model`$"),
        ({"weights": list(range(1000))}, r"got a dict$"),
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


def test_a_long_value_as_tokenizer_is_named_by_its_type():
    with pytest.raises(ConfigError, match=r"got a LlamaConfig$"):
        require_tokenizer(LlamaConfig())


ROWS = Dataset.from_list([{"prompt": "1"}])


@pytest.mark.parametrize(
    ("dataset", "match"),
    [
        (DatasetDict(train=ROWS, test=ROWS), r"got a DatasetDict of the splits train, test; take one: \['train'\]$"),
        ({"validation": ROWS}, r"got a dict of the splits validation; take one: \['validation'\]$"),
        (ROWS.to_pandas(), r'got a DataFrame; give `\.to_dict\("records"\)` of it$'),
        (ROWS.data.table, r"got a Table; give `\.to_pylist\(\)` of it$"),
        ({"prompt": ["1", "2"]}, r"got a dict; .*`datasets\.Dataset\.from_dict`$"),
        ("org/rows", r"got a str; .*`datasets\.load_dataset`$"),
        ([["x" * 99]], r"row 0 must be a mapping of columns, got a list$"),
    ],
)
def test_what_is_not_a_sequence_of_rows_gets_a_hint(dataset, match):
    with pytest.raises(ConfigError, match=match):
        rows_of(dataset, "train_dataset")
