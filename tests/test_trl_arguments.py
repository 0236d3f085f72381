"""Arguments of TRL's and transformers' trainers: options with the same meaning are used, and one notice lists the
others."""

from __future__ import annotations

import dataclasses
import json
import logging
import warnings

import datasets
import pytest
import torch
from transformers import TrainerCallback, TrainingArguments
from trl import GRPOConfig, RLOOConfig

from es_llm import ESConfig, ESTrainer
from es_llm.comm import SingleMailbox
from es_llm.config.adopt import HubTarget, ModelSource, adopt_arguments
from es_llm.config.foreign import counterpart, foreign_options
from es_llm.errors import ConfigError, ModelError
from es_llm.team import Team
from tests.tiny_models import tiny_model, tiny_tokenizer

CLASSES = [GRPOConfig, RLOOConfig, TrainingArguments]
DEFAULTS = ESConfig()


def given(cls=GRPOConfig, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning of transformers about options that it will rename
        return cls(**{"bf16": False, **options})


def taken(cls=GRPOConfig, rows=1000, loaded=False, **options):
    return adopt_arguments(given(cls, **options), rows=rows, loaded=loaded)


def changed(config):
    """The options whose values differ from our defaults."""
    return {
        name: value for name, value in dataclasses.asdict(config).items() if value != dataclasses.asdict(DEFAULTS)[name]
    }


@pytest.mark.parametrize("cls", CLASSES)
def test_defaults_of_other_trainers_do_not_count(cls):
    result = taken(cls)
    assert changed(result.config) == {}
    assert result.notice == ""
    assert result.source == ModelSource()


@pytest.mark.parametrize("cls", CLASSES)
def test_options_that_mean_the_same_are_used(cls):
    result = taken(
        cls, output_dir="here", seed=7, max_steps=12, logging_steps=3, save_steps=4, save_total_limit=5,
        eval_strategy="steps", eval_steps=6, eval_on_start=True, report_to=["tensorboard"], run_name="name",
        metric_for_best_model="eval_accuracy", resume_from_checkpoint="here",
    )  # fmt: skip
    assert changed(result.config) == {
        "output_dir": "here", "seed": 7, "max_steps": 12, "logging_steps": 3, "save_steps": 4, "save_total_limit": 5,
        "eval_steps": 6, "report_to": ["tensorboard"], "run_name": "name", "metric_for_best_model": "eval_accuracy",
        "resume_from_checkpoint": "here",
    }  # fmt: skip
    assert result.notice == ""


def test_options_of_trl_that_mean_the_same_are_used():
    result = taken(
        max_completion_length=64, shuffle_dataset=False, log_completions=True, num_completions_to_print=2,
        reward_weights=[1.0, 0.5], chat_template_kwargs={"enable_thinking": False},
    )  # fmt: skip
    assert changed(result.config) == {
        "max_completion_length": 64, "shuffle_dataset": False, "log_completions": True, "num_completions_to_print": 2,
        "reward_weights": [1.0, 0.5], "chat_template_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    assert result.notice == ""


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({"bf16": True, "use_cpu": True}, "bfloat16"),
        ({"bf16": None, "use_cpu": True}, "bfloat16"),  # TRL's own default
        ({"fp16": True}, "float16"),
        ({"model_init_kwargs": {"dtype": "bfloat16"}}, "bfloat16"),
        ({"model_init_kwargs": {"dtype": torch.float16}}, "float16"),
        ({"model_init_kwargs": {"torch_dtype": "float32"}}, "float32"),
        ({"model_init_kwargs": {"dtype": "auto"}}, None),
        ({"bf16": True, "use_cpu": True, "model_init_kwargs": {"dtype": "float32"}}, "bfloat16"),
    ],
)
def test_the_type_of_the_live_weights(options, dtype):
    result = taken(**options)
    assert result.config.dtype == dtype
    assert result.notice == ""


def test_how_the_model_is_loaded():
    kwargs = {"revision": "v2", "attn_implementation": "eager", "device_map": "auto", "dtype": None}
    result = taken(model_init_kwargs=kwargs, trust_remote_code=True)
    assert result.source == ModelSource(model_revision="v2", trust_remote_code=True, attn_implementation="eager")
    assert "model_init_kwargs['device_map']='auto': see `device`" in result.notice
    assert taken(model_init_kwargs={"revision": "main"}).source == ModelSource()
    result = taken(model_init_kwargs={"attn_implementation": "eager"}, loaded=True)
    assert result.source == ModelSource()
    line = "model_init_kwargs['attn_implementation']='eager': the model is given as a module, which is already loaded"
    assert line in result.notice


@pytest.mark.parametrize(
    ("options", "rows", "wanted"),
    [
        ({"num_train_epochs": 1}, 1000, {"max_steps": 5}),
        ({"num_train_epochs": 0.5}, 1001, {"max_steps": 3}),
        ({"num_train_epochs": 2}, 7, {"max_steps": 2}),
        ({"num_train_epochs": 2, "max_steps": 9}, 1000, {"max_steps": 9}),
        ({"num_train_epochs": 2}, None, {}),
        ({"max_steps": 10, "logging_steps": 0.25, "save_steps": 0.5}, 10, {"max_steps": 10, "logging_steps": 3,
                                                                          "save_steps": 5}),
        ({"save_strategy": "epoch", "logging_strategy": "epoch", "eval_strategy": "epoch"}, 1000,
         {"save_steps": 5, "logging_steps": 5, "eval_steps": 5}),
        ({"save_strategy": "epoch"}, None, {}),
        ({"eval_strategy": "steps", "logging_steps": 2}, 10, {"eval_steps": 2, "logging_steps": 2}),
        ({"save_strategy": "no"}, 10, {}),
        ({"save_strategy": "no", "save_steps": 3}, 10, {}),
        ({"eval_steps": 3}, 10, {}),
    ],
)  # fmt: skip
def test_lengths_are_iterations(options, rows, wanted):
    assert changed(taken(rows=rows, **options).config) == wanted


@pytest.mark.parametrize(
    ("options", "rows", "line"),
    [
        ({"num_train_epochs": 1}, 1000, "num_train_epochs=1: 5 iterations (`max_steps`): 1000 rows, 200 per iteration"),
        ({"num_train_epochs": 1}, None, "num_train_epochs=1: the length of a stream is unknown; the run has 500"),
        ({"save_strategy": "epoch"}, None, "save_strategy='epoch': the length of a stream is unknown"),
        ({"eval_steps": 3}, 10, "eval_steps=3: `eval_strategy` is no"),
        ({"logging_strategy": "no"}, 10, "logging_strategy='no': see `logging_steps`"),
        ({"load_best_model_at_end": True, "save_strategy": "no"}, 9, "metric_for_best_model='loss': there is no loss"),
        ({"learning_rate": 1e-5}, 9, "learning_rate=1e-05: it scales gradients there"),
        ({"temperature": 0.7}, 9, "temperature=0.7: members decode greedily"),
        ({"gradient_checkpointing": False}, 9, "gradient_checkpointing=False: there is no backward pass"),
        ({"generation_batch_size": 16}, 9, "generation_batch_size=16: see `prompts_per_iteration`"),
        ({"push_to_hub": True}, 9, "push_to_hub=True: only `ESTrainer.push_to_hub` uploads"),
    ],
)
def test_options_that_are_left_out_are_reported_with_their_values(options, rows, line):
    result = taken(rows=rows, **options)
    assert f"\n  {line}" in result.notice
    assert result.notice.startswith("GRPOConfig: ")


OTHER_VALUES = {
    "num_generations": 4, "beta": 0.04, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 8,
    "lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 2}, "optim_args": "beta=0.5",
    "warmup_steps": 10, "weight_decay": 0.1, "max_grad_norm": 0.2, "optim": "sgd",
    "epsilon": 0.3, "num_iterations": 2, "loss_type": "grpo", "scale_rewards": False, "top_p": 0.9, "top_k": 5,
    "vllm_mode": "server", "adam_beta2": 0.99, "mask_truncated_completions": True, "dataloader_num_workers": 3,
    "sync_ref_model": True, "disable_dropout": True, "ddp_timeout": 60, "torch_empty_cache_steps": 4,
}  # fmt: skip
SAME_NAMES = {
    "optim", "optim_args", "lr_scheduler_type", "lr_scheduler_kwargs", "num_generations", "top_k", "top_p",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SAME_NAMES))
def test_an_option_with_another_meaning_is_left_out(name):
    """`ESConfig` has an option of this name, whose value is another matter."""
    result = taken(**{name: OTHER_VALUES[name]})
    assert changed(result.config) == {}
    (line,) = result.notice.splitlines()[1:]
    assert line.startswith(f"  {name}=")
    assert line.endswith(": " + foreign_options("other_meaning")[name])


@pytest.mark.parametrize("name", sorted(OTHER_VALUES.keys() - SAME_NAMES))
def test_each_option_of_grpo_alone_changes_nothing_but_the_notice(name):
    """The same option as an argument of `ESConfig` is refused."""
    result = taken(**{name: OTHER_VALUES[name]})
    assert changed(result.config) == {}
    (line,) = result.notice.splitlines()[1:]
    assert line.startswith(f"  {name}=")
    assert line.endswith(f": {counterpart(name)}")
    with pytest.raises(ConfigError, match=f"unknown option '{name}'"):
        ESConfig(**{name: OTHER_VALUES[name]})


MEANINGFUL = {
    **dict.fromkeys(("eval_steps", "logging_steps", "save_steps", "max_steps", "num_train_epochs", "seed"), 4),
    **dict.fromkeys(("max_completion_length", "save_total_limit", "num_completions_to_print"), 3),
    **dict.fromkeys(("eval_strategy", "save_strategy", "logging_strategy"), "epoch"),
    **dict.fromkeys(("shuffle_dataset", "greater_is_better"), False),
    **dict.fromkeys(("log_completions", "trust_remote_code"), True),
    "reward_weights": [2.0],
    "chat_template_kwargs": {"a": 1},
    "report_to": ["tensorboard"],
}
"""Values for the options that are used. For all other options, any value must be reported."""
SILENT = {
    "do_train", "do_eval", "full_determinism", "disable_tqdm", "local_rank",  # always true here, or without effect
    "use_cpu", "bf16", "fp16", "model_init_kwargs", "hub_token", "hub_model_id", "hub_private_repo", "hub_revision",
    "activation_checkpointing", "activation_checkpointing_kwargs",  # mirror `gradient_checkpointing`
    "gradient_checkpointing_kwargs", "output_dir", "eval_on_start",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted({spec.name for spec in dataclasses.fields(GRPOConfig)} - SILENT))
def test_no_option_of_other_trainers_is_dropped_silently(name):
    """This includes options of new versions."""
    args = given()
    setattr(args, name, MEANINGFUL.get(name, "a value of nobody's"))
    result = adopt_arguments(args, rows=1000, loaded=False)
    taken_over = changed(result.config) or result.source != ModelSource()
    assert bool(taken_over) != (f"\n  {name}=" in result.notice) or name == "num_train_epochs"


def test_metrics_where_lower_is_better():
    result = taken(metric_for_best_model="eval_error", greater_is_better=False)
    assert changed(result.config) == {"metric_for_best_model": "eval_error", "greater_is_better": False}
    assert changed(taken(metric_for_best_model="accuracy").config) == {"metric_for_best_model": "accuracy"}


def test_a_subclass_of_the_user():
    @dataclasses.dataclass
    class Mine(GRPOConfig):
        curriculum: str = "none"
        secret_token: str | None = None

    result = taken(Mine, curriculum="hard", secret_token="abc", hub_token="def", hub_model_id="me/model", seed=3)
    assert "\n  curriculum='hard': there is no such option here" in result.notice
    assert "\n  secret_token=..." in result.notice
    assert result.hub == HubTarget(model_id="me/model", token="def")
    assert "abc" not in result.notice
    assert "def" not in result.notice + repr(result.hub)
    assert result.config.seed == 3


def test_values_that_we_refuse_are_named():
    with pytest.raises(ConfigError, match="`seed` must be an integer in"):
        taken(seed=-1)
    for other in (GRPOConfig, {"seed": 1}, "args", [1]):
        with pytest.raises(ConfigError, match="`args` must be an ESConfig, got a"):
            ESTrainer(None, len, other, [{"prompt": "ab"}])


def trainer(tmp_path, monkeypatch, args, dataset, model=None):
    """A trainer with small defaults instead of the paper's."""
    small = {"population_size": 4, "prompts_per_iteration": 3, "max_completion_length": 4, "reward_workers": 0}
    for name, value in small.items():
        monkeypatch.setitem(ESConfig.__init__.__wrapped__.__kwdefaults__, name, value)
    monkeypatch.chdir(tmp_path)
    return ESTrainer(
        model=model or tiny_model(),
        reward_funcs=lambda completions, **_: [float(len(set(text))) for text in completions],
        args=args, train_dataset=dataset, processing_class=tiny_tokenizer(), team=Team(SingleMailbox()),
    )  # fmt: skip


def test_the_quick_start_with_a_config_runs(tmp_path, monkeypatch, caplog):
    """TRL's documentation: `training_args = GRPOConfig(...)`, `GRPOTrainer(..., args=training_args)`."""
    dataset = datasets.Dataset.from_list([{"prompt": f"ab {number}"} for number in range(6)])
    args = given(output_dir="tiny-GRPO", num_train_epochs=1, logging_steps=1, learning_rate=1e-5)
    steps = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **given):
            steps.append((args.output_dir, args.max_steps, state.global_step))

    with caplog.at_level(logging.WARNING):
        ours = trainer(tmp_path, monkeypatch, args, dataset)
        ours.add_callback(Watch)
        ours.train()
    (notice,) = [record.message for record in caplog.records if "another method" in record.message]
    assert "num_train_epochs=1: 2 iterations" in notice
    assert "learning_rate=1e-05" in notice
    assert steps == [("tiny-GRPO", 2, 1), ("tiny-GRPO", 2, 2)]
    assert json.loads((tmp_path / "tiny-GRPO" / "config.json").read_text())["learning_rate"] == 5e-4
    assert args.learning_rate == 1e-5


def test_the_same_run_by_either_config(tmp_path, monkeypatch, caplog):
    rows = [{"prompt": f"ab {number}"} for number in range(6)]
    torch.manual_seed(0)
    state = tiny_model().state_dict()
    sums = []
    for directory, args in (
        ("a", given(output_dir="a", seed=5, max_steps=2, max_completion_length=3)),
        ("b", ESConfig(output_dir="b", seed=5, max_steps=2, max_completion_length=3)),
    ):
        model = tiny_model()
        model.load_state_dict(state)
        sums.append(trainer(tmp_path, monkeypatch, args, rows, model).train().metrics["weights_sha256"])
        assert (tmp_path / directory / "model").is_dir()
    assert sums[0] == sums[1]
    assert "another method" not in caplog.text


def test_the_attention_implementation_is_used(tmp_path, monkeypatch):
    from es_llm.checkpoint.export import export_model

    export_model(tmp_path / "tiny", tiny_model(), tiny_tokenizer())
    rows = [{"prompt": "ab"}]
    kwargs = {"attn_implementation": "eager", "dtype": "bfloat16"}
    args = given(output_dir="run", model_init_kwargs=kwargs)
    ours = trainer(tmp_path, monkeypatch, args, rows, str(tmp_path / "tiny"))
    assert ours.model.config._attn_implementation == "eager"
    assert next(ours.model.parameters()).dtype == torch.bfloat16
    args = given(output_dir="run", model_init_kwargs={"attn_implementation": "nobody's"})
    with pytest.raises(ModelError, match="`attn_implementation` \"nobody's\" can't be used"):
        trainer(tmp_path, monkeypatch, args, rows, str(tmp_path / "tiny"))
