"""Attributes and methods of a trainer that scripts for TRL and transformers use: state, files, processes, the hub."""

from __future__ import annotations

import copy
import json
import logging
import math
import pickle
import typing
import warnings
from pathlib import Path

import huggingface_hub
import pytest
from transformers import (
    AutoModelForCausalLM,
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerState,
)
from trl import GRPOConfig, RichProgressCallback

from es_llm import ESConfig, ESTrainer
from es_llm.comm import SingleMailbox
from es_llm.errors import ConfigError, ModelError
from es_llm.team import Team
from tests.rank_threads import run_ranks
from tests.tiny_models import tiny_model, tiny_tokenizer

ROWS = [{"prompt": f"ab {number}"} for number in range(4)]


def distinct(completions, **columns):
    return [float(len(set(text))) for text in completions]


def make(directory, team=None, model=None, **options):
    small = {"population_size": 4, "prompts_per_iteration": 4, "max_steps": 2, "max_completion_length": 4,
             "reward_workers": 0, "output_dir": str(directory) if directory else None}  # fmt: skip
    return ESTrainer(
        model or tiny_model(), distinct, ESConfig(**{**small, **options}), ROWS, eval_dataset=ROWS[:2],
        processing_class=tiny_tokenizer(), team=team or Team(SingleMailbox()),
    )  # fmt: skip


@pytest.fixture
def trained(tmp_path):
    trainer = make(tmp_path / "run")
    trainer.output = trainer.train()
    yield trainer
    trainer.end()


def test_state_and_output(trained):
    assert isinstance(trained.state, TrainerState)
    assert trained.state.global_step == trained.output.global_step == 2
    rewards = [line["reward"] for line in trained.state.log_history if "reward" in line]
    assert len(rewards) == 2
    assert math.isnan(trained.output.training_loss)
    assert trained.output.metrics["steps"] == 2
    assert trained.args.output_dir == trained.output.output_dir
    assert trained.is_world_process_zero()
    assert trained.is_local_process_zero()
    trained.log({"mine": 1.5})
    assert trained.state.log_history[-1] == {"mine": 1.5, "step": 2}
    assert {name[:8] for name in trained.evaluate(ROWS, metric_key_prefix="held_out")} == {"held_out"}
    assert not trained.control.should_training_stop


def test_the_usual_end_of_a_script_of_transformers(trained, tmp_path, capsys):
    metrics = trained.output.metrics
    metrics["train_samples"] = len(trained.train_dataset)
    trained.log_metrics("train", metrics)
    trained.save_metrics("train", metrics)
    trained.save_metrics("eval", trained.evaluate())
    trained.save_state()
    run = tmp_path / "run"
    assert json.loads((run / "train_results.json").read_text())["train_samples"] == 4
    assert {"steps", "eval_reward"} <= json.loads((run / "all_results.json").read_text()).keys()
    assert json.loads((run / "trainer_state.json").read_text())["global_step"] == 2
    shown = capsys.readouterr().out
    assert "***** train metrics *****" in shown
    assert "train_samples" in shown
    again = make(run, max_steps=3).train(resume_from_checkpoint=True)
    assert again.global_step == 3


@pytest.mark.parametrize("name", [None, "run", "./run", "/absolute"])
def test_the_model_is_saved_beside_the_journal(trained, tmp_path, monkeypatch, caplog, name):
    """`save_model(args.output_dir)`, as TRL's scripts call it, and without an argument."""
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "run" / "model"
    before = (model / "model.safetensors").stat().st_mtime_ns
    with caplog.at_level(logging.WARNING):
        trained.save_model(str(tmp_path / "run") if name == "/absolute" else name)
    assert (model / "model.safetensors").stat().st_mtime_ns > before
    assert (tmp_path / "run" / "journal.es").is_file()
    assert AutoModelForCausalLM.from_pretrained(model).config.vocab_size == trained.model.config.vocab_size
    assert ("the model is saved to" in caplog.text) == (name is not None)


def test_a_run_without_a_name_is_found_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = make(None, max_steps=1)
    with pytest.raises(ConfigError, match="`output_dir` must be given"):
        trainer.save_model()
    output = trainer.train()
    trainer.save_model()
    trainer.save_state()
    assert (Path(output.output_dir) / "trainer_state.json").is_file()
    trainer.save_model("elsewhere")
    assert (tmp_path / "elsewhere" / "config.json").is_file()


def test_a_run_accepts_a_model_that_was_saved_before_it(tmp_path):
    trainer = make(tmp_path / "run", max_steps=1)
    trainer.save_model(str(tmp_path / "run"))
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    assert trainer.train().global_step == 1


def test_callbacks_come_and_go(tmp_path):
    class Mine(TrainerCallback):
        pass

    mine = Mine()
    trainer = make(tmp_path / "run")
    trainer.add_callback(mine)
    trainer.callback_handler.add_callback(Mine)
    assert sum(isinstance(held, Mine) for held in trainer.callback_handler.callbacks) == 2
    assert trainer.pop_callback(Mine) is mine
    trainer.remove_callback(Mine)
    assert not any(isinstance(held, Mine) for held in trainer.callback_handler.callbacks)
    assert trainer.pop_callback(ProgressCallback) is None


@pytest.mark.parametrize(
    "callback", [EarlyStoppingCallback(1), PrinterCallback, ProgressCallback, RichProgressCallback]
)
def test_callbacks_of_the_libraries_run(tmp_path, callback):
    stops = isinstance(callback, EarlyStoppingCallback)
    trainer = make(
        tmp_path / "run", max_steps=5, eval_steps=1, metric_for_best_model="reward", sigma=1e-9, learning_rate=1e-9
    )
    trainer.add_callback(callback)
    assert trainer.train().global_step == (1 if stops else 5)
    assert trainer.state.best_global_step == 0
    assert trainer.state.best_metric == trainer.state.log_history[0]["eval_reward"]


def test_options_of_others_that_callbacks_ask_for(tmp_path):
    config = ESConfig(eval_steps=2)
    assert (config.eval_strategy, config.save_strategy, config.logging_strategy) == ("steps", "no", "steps")
    with pytest.raises(AttributeError, match=r"no attribute 'num_generations_eval': see `eval_num_samples`"):
        config.num_generations_eval  # noqa: B018
    with pytest.raises(AttributeError, match=r"'ESConfig' object has no attribute 'nobodys'$"):
        config.nobodys  # noqa: B018
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config


def test_the_processes_of_several_ranks(tmp_path, capsys):
    models = [tiny_model(), tiny_model()]  # ranks are threads here, which share torch's generator

    def rank(mailbox):
        team = Team(mailbox)
        trainer = make(tmp_path / "run", team, models[team.rank], max_steps=1)
        trainer.accelerator.wait_for_everyone()
        trainer.train()
        trainer.accelerator.wait_for_everyone()
        trainer.accelerator.print("only once")
        trainer.save_model()
        trainer.save_metrics("train", {"a": 1})
        accelerator = trainer.accelerator
        assert accelerator.unwrap_model(trainer.model) is trainer.model
        assert accelerator.device.type == "cpu"
        assert accelerator.is_main_process == trainer.is_world_process_zero()
        return accelerator.process_index, accelerator.num_processes, accelerator.is_main_process

    assert run_ranks(2, rank) == [(0, 2, True), (1, 2, False)]
    assert capsys.readouterr().out.count("only once") == 1


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("optimizer", "there are no gradients"),
        ("create_optimizer", "there are no gradients"),
        ("lr_scheduler", "there are no gradients"),
        ("compute_loss", "no loss"),
        ("get_train_dataloader", "`train_dataset`"),
        ("ref_model", "`eval_kl`"),
        ("predict", r"`evaluate\(rows\)`"),
        ("tokenizer", "`processing_class`"),
        ("num_generations", "`args.population_size`"),
    ],
)
def test_missing_attributes_of_trl_have_a_reason(tmp_path, name, reason):
    trainer = make(tmp_path / "run")
    with pytest.raises(AttributeError, match=f"'ESTrainer' object has no attribute '{name}': .*{reason}"):
        getattr(trainer, name)
    assert not hasattr(trainer, name)


def test_unknown_attributes_have_no_reason(tmp_path):
    trainer = make(tmp_path / "run")
    with pytest.raises(AttributeError, match=r"'ESTrainer' object has no attribute 'modle'$"):
        trainer.modle  # noqa: B018
    with pytest.raises(AttributeError, match="`accelerator` has no attribute 'backward': there are no gradients"):
        trainer.accelerator.backward(1)
    with pytest.raises(AttributeError, match=r"`accelerator` has no attribute 'gather': .* scalars alone"):
        trainer.accelerator.gather([1])


class Hub:
    """Replaces the hub's client, and records the calls."""

    asked: typing.ClassVar[list] = []

    def __init__(self, token=None):
        self.token = token

    def create_repo(self, repo_id, **options):
        self.asked.append(("create", repo_id, self.token, options))
        return type("Url", (), {"repo_id": repo_id if "/" in repo_id else f"me/{repo_id}"})

    def upload_folder(self, *, folder_path, **options):
        self.asked.append(("upload", sorted(path.name for path in Path(folder_path).iterdir()), options))
        return "done"

    def run_as_future(self, function, **options):
        return ("future", function(**options))


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    Hub.asked = []
    return Hub


def test_the_model_is_pushed_with_a_card(trained, tmp_path, hub):
    assert trained.hub_model_id is None
    assert trained.push_to_hub(dataset_name="trl-lib/DeepMath-103K", tags="mine", unknown=1) == "done"
    assert trained.hub_model_id == "me/run"
    create, upload = hub.asked
    assert create == ("create", "run", None, {"private": None, "exist_ok": True})
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(upload[1])
    assert upload[2] == {"repo_id": "me/run", "commit_message": "End of training", "revision": None}
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    about = huggingface_hub.ModelCard(card).data.to_dict()
    assert about["datasets"] == "trl-lib/DeepMath-103K"
    assert {"mine", "evolution-strategies"} <= set(about["tags"])
    assert "base_model" not in about
    assert str(tmp_path) not in card
    assert trained.push_to_hub("again", blocking=False, token="t", private=True, revision="dev")[0] == "future"
    assert hub.asked[2] == ("create", "me/run", "t", {"private": True, "exist_ok": True})
    assert hub.asked[3][2] == {"repo_id": "me/run", "commit_message": "again", "revision": "dev"}


def test_the_hub_of_the_arguments(tmp_path, hub, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning of transformers about options that it will rename
        args = GRPOConfig(
            output_dir=str(tmp_path / "run"), bf16=False, push_to_hub=True, hub_model_id="lab/model",
            hub_token="secret", hub_private_repo=True, max_completion_length=2,
        )  # fmt: skip
    trainer = ESTrainer(
        tiny_model(), distinct, args, ROWS, processing_class=tiny_tokenizer(), team=Team(SingleMailbox())
    )
    trainer.push_to_hub()
    trainer.end()
    assert hub.asked[0] == ("create", "lab/model", "secret", {"private": True, "exist_ok": True})
    assert trainer.hub_model_id == "lab/model"
    assert "secret" not in caplog.text


def test_without_a_hub_the_model_is_safe(trained, tmp_path):
    """HF_HUB_OFFLINE is set in all tests."""
    with pytest.raises(ModelError, match=r"can't be uploaded to 'run': .*nothing is lost: `hf upload run ") as caught:
        trained.push_to_hub()
    assert str(tmp_path / "run" / "model") in str(caught.value)
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
