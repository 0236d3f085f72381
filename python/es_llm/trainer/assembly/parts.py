"""Builds a run from the arguments of the trainer. Errors are raised before any file is written.

The order matters: options are checked before the model is loaded, the engine is built before the weights (it names the
tensors that it runs), and reward workers start last.
"""

from __future__ import annotations

import inspect
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from transformers import TrainingArguments

from es_llm import _core
from es_llm.callbacks import Callbacks, ProgressCallback, make_trackers
from es_llm.comm import select_mailbox
from es_llm.config import ESConfig, ScriptArguments
from es_llm.config.adopt import HubTarget
from es_llm.data.messages import TextPrompts
from es_llm.data.order import PromptOrder
from es_llm.data.stream import PromptStream, is_stream
from es_llm.errors import ConfigError
from es_llm.evaluation.work import EvaluationSets
from es_llm.model.device import device_of_rank
from es_llm.model.files import some
from es_llm.model.left_out import left_out_of
from es_llm.model.selection import Selection
from es_llm.model.table import ParameterTable
from es_llm.model.used import groups
from es_llm.model.weights import Weights
from es_llm.optimizers import load_optimizer
from es_llm.rewards.reward_set import RewardSet
from es_llm.rewards.workers.system import open_standard_descriptors
from es_llm.rollout import load_engine
from es_llm.rollout.checks import checked_targets
from es_llm.rollout.engine import LiveMember, LogProbs, RolloutEngine
from es_llm.rollout.form import PromptForm
from es_llm.schedules import hyperparameters
from es_llm.shaping import load_shaping
from es_llm.team import Team
from es_llm.trainer.assembly.arguments import as_list, require_config, require_model, require_tokenizer
from es_llm.trainer.assembly.cores import configure_threads, reward_limits
from es_llm.trainer.assembly.header import RunHeader
from es_llm.trainer.assembly.model import TrainedModel
from es_llm.trainer.assembly.rows import columns_of, eval_sets, rows_of
from es_llm.types import RewardFunction, Row
from es_llm.units.run_state import Prompts, RunState, training_sampling

logger = logging.getLogger(__name__)

EvalData: TypeAlias = Iterable[Row] | Mapping[str, Iterable[Row]]


@dataclass(frozen=True, kw_only=True)
class RunParts:
    """A run, built and checked. `sets` are the held-out rows by the name of their set, as the model gets them."""

    run: RunState
    model: TrainedModel
    train_dataset: Any
    sets: dict[str, list[Row]]
    form: PromptForm
    answer_of: Callable[[str], str | None]
    callbacks: Callbacks
    header: RunHeader
    hub: HubTarget

    def evaluation_sets(self, dataset: EvalData | None = None) -> EvaluationSets | None:
        """What is evaluated: the given rows, else the run's own; None if there are none."""
        sets = self.sets if dataset is None else self.form.sets(eval_sets(dataset))
        _require_columns(self.run.rewards, sets)
        if not sets:
            return None
        config, model = self.run.config, self.model
        base = (lambda: model.kl_base(config.dtype)) if config.eval_kl else None
        return EvaluationSets(sets=sets, answer_of=self.answer_of, base=base)


def build_run(
    *,
    model: Any,
    reward_funcs: Any,
    args: ESConfig | TrainingArguments | None,
    train_dataset: Iterable[Row] | None,
    eval_dataset: EvalData | None,
    processing_class: Any,
    callbacks: Sequence[Any] | None,
    metric_funcs: Mapping[str, RewardFunction] | None,
    answer_of: Callable[[str], str | None],
    text_prompts: TextPrompts,
    team: Team | None,
    script: ScriptArguments | None,
    task_name: str | None,
) -> RunParts:
    """Build and check a run from the arguments of `ESTrainer`."""
    open_standard_descriptors()
    require_model(model)
    require_tokenizer(processing_class)
    adopted = require_config(args, model, train_dataset, script)
    config, team = adopted.config, team if team is not None else Team(select_mailbox())
    if adopted.notice and team.rank == 0:
        logger.warning(adopted.notice)
    hyperparameters(config, 0)
    trackers = make_trackers(config)
    configure_threads(config, team)
    functions: list[Any] = [reward_funcs] if isinstance(reward_funcs, str) else as_list(reward_funcs, "reward_funcs")
    limits = reward_limits(config, team)
    rewards = RewardSet(functions, config.reward_weights, metrics=metric_funcs, limits=limits)
    trained = TrainedModel(model, processing_class, adopted.source)
    if config.eval_kl:
        trained.keep_base()
    if config.dtype is None:
        config = replace(config, dtype=trained.stored_dtype())
    rows = train_dataset if is_stream(train_dataset) else rows_of(train_dataset, "train_dataset")
    form = PromptForm(config, trained.tokenizer, text_prompts)
    sets = form.sets(eval_sets(eval_dataset))
    engine = _engine(config, trained)
    prompts = _prompts(config, rows, form, engine)
    engine.check_lengths([row["prompt"] for own in sets.values() for row in own])
    rewards.require_columns(columns_of(prompts.first()), "`train_dataset`")
    _require_columns(rewards, sets)
    run = _run(config, team, trained, engine, rewards, prompts)
    header = RunHeader(run, trained, script, task_name)
    opening = [*header.extensions(), form.describe(), *engine.describe(run.prompts.first()["prompt"])]
    parts = RunParts(
        run=run,
        model=trained,
        train_dataset=rows,
        sets=sets,
        form=form,
        answer_of=answer_of,
        callbacks=_callbacks(run, trained, opening, [*as_list(callbacks, "callbacks"), *trackers]),
        header=header,
        hub=adopted.hub,
    )
    rewards.open()
    parts.callbacks.call("on_init_end")
    return parts


def _require_columns(rewards: RewardSet, sets: Mapping[str, Sequence[Row]]) -> None:
    for name, rows in sets.items():
        where = f"`eval_dataset[{name!r}]`" if name else "`eval_dataset`"
        rewards.require_columns(columns_of(rows[0]), where, metrics=True)


def _engine(config: ESConfig, model: TrainedModel) -> RolloutEngine:
    engine = load_engine(
        config.engine,
        model.module,
        model.tokenizer,
        max_completion_length=config.max_completion_length,
        chat_template_kwargs=config.chat_template_kwargs,
        skip_special_tokens=config.skip_special_tokens,
        stop_strings=config.stop_strings,
        members_per_unit=config.members_per_unit,
        prompts_per_unit=min(config.prompts_per_unit, config.prompts_per_iteration * config.num_generations),
    )
    samples = training_sampling(config) is not None or config.eval_num_samples > 0
    if samples and "sampling" not in inspect.signature(engine.evaluate).parameters:
        raise ConfigError(f"the engine {config.engine!r} can't sample: its `evaluate` has no argument `sampling`")
    if config.eval_kl and not isinstance(engine, LogProbs):
        raise ConfigError(f"`eval_kl` needs an engine with `log_probs`, the engine {config.engine!r} has none")
    return engine


def _prompts(config: ESConfig, rows: Any, form: PromptForm, engine: RolloutEngine) -> Prompts:
    """The training data by iteration. Prompts that are too long are refused; those of a stream when they are read."""
    order: dict[str, Any] = {
        "per_iteration": config.prompts_per_iteration,
        "seed": config.seed,
        "shuffle": config.shuffle_dataset,
    }

    def formed(checked: list[Row]) -> list[Row]:
        own = form.rows(checked, "train_dataset")
        engine.check_lengths([row["prompt"] for row in own])
        return own

    if not is_stream(rows):
        return PromptOrder(formed(rows), fixed=config.prompt_schedule == "fixed", **order)
    if config.prompt_schedule == "fixed":
        first = rows_of(itertools.islice(rows, config.prompts_per_iteration), "train_dataset")
        return PromptOrder(formed(first), fixed=True, **order)
    return PromptStream(rows, checked=lambda read: formed(rows_of(read, "train_dataset")), **order)


def _run(
    config: ESConfig, team: Team, model: TrainedModel, engine: RolloutEngine, rewards: RewardSet, prompts: Prompts
) -> RunState:
    targets = checked_targets(config.engine, engine.targets(), dict(model.module.named_parameters()))
    named = {target.name for target in targets}
    if team.rank == 0:
        _report(model.module, named, engine)
    table = ParameterTable.from_module(
        model.module,
        Selection(include=config.trainable, exclude=config.frozen),
        unused={name for name, _ in model.module.named_parameters() if name not in named},
        perturbation=config.perturbation,
        rank=config.rank,
        vectors=config.vectors,
        embeddings=config.embeddings,
    )
    weights = Weights(
        model.module,
        table,
        targets=targets,
        optimizer=load_optimizer(config.optim, config),
        dtype=config.dtype,
        device=device_of_rank(config.device, team.local_rank),
        master_device=config.master_device,
    )
    live = LiveMember(weights)
    engine.attach(live)
    population = _core.Population(
        run_seed=config.seed,
        population_size=config.population_size,
        antithetic=config.antithetic,
        shaping=load_shaping(config.shaping),
        failure_policy=config.failure_policy,
    )
    return RunState(
        config=config,
        team=team,
        population=population,
        weights=weights,
        live=live,
        engine=engine,
        rewards=rewards,
        prompts=prompts,
    )


def _callbacks(run: RunState, model: TrainedModel, opening: list[str], others: Sequence[Any]) -> Callbacks:
    progress = ProgressCallback(opening)
    callbacks = Callbacks([progress, *others], run.config, model.module, model.tokenizer)
    callbacks.state.is_world_process_zero = callbacks.state.is_local_process_zero = run.team.rank == 0
    return callbacks


def _report(model: torch.nn.Module, trained: set[str], engine: RolloutEngine) -> None:
    """Log which parameters the engine doesn't run, its notices, and what only the model's files hold."""
    named = dict(model.named_parameters())
    if unused := named.keys() - trained:
        share = sum(named[name].numel() for name in unused) / sum(weight.numel() for weight in named.values())
        logger.warning(
            "%d of %d parameters (%.0f%% of the weights) take no part when the model reads and writes text, and stay "
            "as they are: %s", len(unused), len(named), 100 * share, some(groups(model, unused)),
        )  # fmt: skip
    for notice in engine.notices():
        logger.warning("%s", notice)
    if (left := left_out_of(model)) is not None:
        logger.warning("%s", left.message())
