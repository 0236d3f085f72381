"""What scripts for TRL and transformers use of a trainer besides `train`, `evaluate` and `save_model`.

Knows nothing of iterations and populations.
"""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from es_llm.callbacks import Callbacks
from es_llm.checkpoint.run_directory import RunDirectory, write_json
from es_llm.config import ESConfig
from es_llm.config.adopt import HubTarget
from es_llm.errors import ConfigError
from es_llm.team import Team
from es_llm.trainer.accelerator import Processes
from es_llm.trainer.hub import upload, write_model_card
from es_llm.units.run_state import RunState

logger = logging.getLogger(__name__)


class TrlFace(ABC):
    """Names of transformers' `Trainer`, over a trainer that trains, evaluates and saves."""

    args: ESConfig
    team: Team
    run: RunState
    model: Any
    callbacks: Callbacks
    _model_name: str | None
    _hub: HubTarget
    _directory: Path | None = None

    @abstractmethod
    def save_model(self, output_dir: str | os.PathLike[str] | None = None) -> None:
        """Write the current weights; None: to the run's directory."""

    @abstractmethod
    def _lead(self, work: Callable[[], None]) -> None:
        """Collective: the leading rank calls `work`."""

    @property
    def state(self) -> Any:
        """transformers' `TrainerState`: `global_step`, `max_steps`, `log_history` (of the leading rank)."""
        return self.callbacks.state

    @property
    def control(self) -> Any:
        """transformers' `TrainerControl`."""
        return self.callbacks.control

    @property
    def callback_handler(self) -> Callbacks:
        """The callbacks with the state and control that they share."""
        return self.callbacks

    def add_callback(self, callback: Any) -> None:
        """Add a `TrainerCallback` (object or class)."""
        self.callbacks.add_callback(callback)

    def pop_callback(self, callback: Any) -> Any:
        """Remove a callback object, or the first one of a class, and return it; None if there is none."""
        return self.callbacks.pop_callback(callback)

    def remove_callback(self, callback: Any) -> None:
        """Remove a callback object, or all of a class."""
        self.callbacks.remove_callback(callback)

    def log(self, logs: Mapping[str, float], start_time: float | None = None) -> None:
        """Give metrics to the trackers, the callbacks and `state.log_history`."""
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.callbacks.call("on_log", logs=dict(logs))

    @property
    def accelerator(self) -> Processes:
        """The ranks, under the names of accelerate."""
        return Processes(self.team, self.state, self.run.weights.device, wait=lambda: self._lead(lambda: None))

    def is_world_process_zero(self) -> bool:
        """True on the rank that leads; only it writes."""
        return bool(self.state.is_world_process_zero)

    def is_local_process_zero(self) -> bool:
        """The same as `is_world_process_zero`, as for transformers' callbacks."""
        return bool(self.state.is_local_process_zero)

    def end(self) -> None:
        """End the workers for rewards; nothing can be trained or evaluated afterwards."""
        self.run.rewards.close()

    def save_state(self) -> None:
        """Write `trainer_state.json` to the run's directory. A resume needs only the journal."""
        if self.is_world_process_zero():
            directory = self._made_directory()
            self.state.save_to_json(str(directory / "trainer_state.json"))

    def log_metrics(self, split: str, metrics: Mapping[str, Any]) -> None:
        """Print metrics, one a line."""
        if self.is_world_process_zero():
            width = max(map(len, metrics), default=0)
            print(f"***** {split} metrics *****")
            for name, value in sorted(metrics.items()):
                print(f"  {name:<{width}} = {round(value, 4) if isinstance(value, float) else value}")

    def save_metrics(self, split: str, metrics: Mapping[str, Any], combined: bool = True) -> None:
        """Write metrics to `<split>_results.json` in the run's directory; `combined`: to `all_results.json` too."""
        if not self.is_world_process_zero():
            return
        directory = self._made_directory()
        write_json(directory / f"{split}_results.json", metrics)
        if combined:
            self._results = {**getattr(self, "_results", {}), **metrics}
            write_json(directory / "all_results.json", self._results)

    @property
    def hub_model_id(self) -> str | None:
        """The repository on the hub; None if no name is known yet."""
        return self._hub.model_id

    def create_model_card(self, model_name: str | None = None, **facts: Any) -> None:
        """Write a model card for the exported model.

        Args:
            model_name: title of the card; default: the name of the run's directory.
            facts: `dataset_name`, `tags`, `license`, `language`; others are ignored.
        """
        if self.is_world_process_zero():
            directory = self._home()
            title = model_name or directory.name
            write_model_card(RunDirectory(directory).model, title, base_model=self._model_name, facts=facts)

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **facts: Any,
    ) -> Any:
        """Export the model with a model card, and upload it (the leading rank alone).

        Args:
            commit_message: message of the commit.
            blocking: wait for the upload.
            token: token of the hub; default: `hub_token` of the arguments, else that of the login.
            revision: branch; default: `hub_revision`, else main.
            private: make a new repository private; default: `hub_private_repo`.
            facts: see `create_model_card`.

        Returns:
            huggingface_hub's `CommitInfo`; a future of it if not `blocking`; None on other ranks.

        Raises:
            ModelError: the hub can't be reached or refuses; the message says where the exported model is.
        """
        self.save_model()
        self.create_model_card(**facts)
        if not self.is_world_process_zero():
            return None
        known = self._hub
        target = HubTarget(
            model_id=known.model_id or self._home().resolve().name,
            token=token or known.token,
            private=known.private if private is None else private,
            revision=revision or known.revision,
        )
        self._hub, done = upload(RunDirectory(self._home()).model, target, commit_message, blocking=blocking)
        return done

    def _home(self) -> Path:
        if self._directory is None and self.args.output_dir is None:
            raise ConfigError("`output_dir` must be given until a run has created a directory, got None")
        return self._directory if self._directory is not None else Path(str(self.args.output_dir))

    def _made_directory(self) -> Path:
        directory = RunDirectory(self._home())
        directory.prepare()
        return directory.path

    def _model_directory(self, output_dir: str | os.PathLike[str] | None) -> Path:
        """The directory to export to: the requested one, but never the run's own directory."""
        if output_dir is None:
            return RunDirectory(self._home()).model
        target = Path(output_dir).expanduser()
        named = None if self._directory is None and self.args.output_dir is None else self._home()
        if named is None or target.resolve() != named.resolve():
            return target
        model = RunDirectory(named).model
        if self.is_world_process_zero():
            logger.warning("%s is the run's directory, with its journal: the model is saved to %s", target, model)
        return model

    def __getattr__(self, name: str) -> Any:
        reason = f": {_MISSING[name]}" if name in _MISSING else ""
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{reason}", name=name, obj=self)


_NO_GRADIENTS: Final = "there are no gradients, no loss and no optimizer; `Weights.update` moves the weights"
_NO_LOADER: Final = "there is no data loader; `train_dataset` and `eval_dataset` hold the rows"
_MISSING: Final = {
    **dict.fromkeys(
        (
            "optimizer", "lr_scheduler", "create_optimizer", "create_scheduler", "create_optimizer_and_scheduler",
            "compute_loss", "training_step", "prediction_step", "get_decay_parameter_names", "get_learning_rates",
            "floating_point_ops", "compute_loss_func",
        ),
        _NO_GRADIENTS,
    ),
    **dict.fromkeys(
        ("get_train_dataloader", "get_eval_dataloader", "get_test_dataloader", "data_collator", "num_examples"),
        _NO_LOADER,
    ),
    "ref_model": "there is no reference model; `eval_kl` measures the KL to the base model",
    "beta": "there is no reference model; `eval_kl` measures the KL to the base model",
    "num_generations": "a population has `args.population_size` members instead",
    "tokenizer": "use `processing_class`",
    "model_wrapped": "use `model`; nothing wraps it",
    "predict": "`evaluate(rows)` gives the metrics of rows; with `log_completions` it keeps the answers",
    "hyperparameter_search": "start a run for each choice; `ESConfig` is frozen, use dataclasses.replace",
    "reward_processing_classes": "reward models are not supported: call yours in a reward function",
    "reward_funcs": "the names of the reward functions are `run.rewards.names`",
    "compute_metrics": "use `metric_funcs`: functions with the arguments of reward functions",
    "is_fsdp_enabled": "ranks are processes under mpirun, each with a whole model",
    "is_deepspeed_enabled": "ranks are processes under mpirun, each with a whole model",
    "vllm_generation": "completions are generated by transformers in this process",
}  # fmt: skip
