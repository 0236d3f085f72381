"""`ESTrainer`: the trainer that TRL users expect, by Evolution Strategies."""

from __future__ import annotations

import copy
import hashlib
import inspect
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
import transformers
from transformers import TrainingArguments

import es_llm
from es_llm import _core
from es_llm.callbacks.handler import Callbacks, make_trackers
from es_llm.callbacks.progress import ProgressCallback
from es_llm.checkpoint.identity import encode_header
from es_llm.checkpoint.opening import open_run
from es_llm.comm import select_mailbox
from es_llm.config import ESConfig, ScriptArguments
from es_llm.config.replaced import unknown_argument
from es_llm.config.taken import ModelSource
from es_llm.data.messages import TextPrompts
from es_llm.errors import ConfigError, JournalTakenError
from es_llm.evaluation.program import ROUND, Evaluate
from es_llm.evaluation.work import EvaluationSets, EvaluationWork, Keep
from es_llm.model.attention import use_attention
from es_llm.model.device import device_of_rank
from es_llm.model.files import some
from es_llm.model.left_out import left_out_of
from es_llm.model.live import DTYPES, cast_parameters
from es_llm.model.loading import EMBEDDED, load_model, load_tokenizer, stored_dtype
from es_llm.model.used import groups
from es_llm.model.weights import Weights
from es_llm.rewards.processes import open_standard_descriptors
from es_llm.rewards.scoring import Graded, RewardSet
from es_llm.rollout.engine import Completion, RolloutEngine
from es_llm.rollout.engines.hf import HFEngine
from es_llm.rollout.form import PromptForm
from es_llm.rollout.probe import Batching
from es_llm.team import Lead, Round, Team
from es_llm.trainer.assembly.arguments import (
    as_list,
    columns_of,
    eval_sets,
    is_stream,
    require_config,
    require_model,
    require_tokenizer,
    rows_of,
)
from es_llm.trainer.assembly.header import data_identity, run_identity
from es_llm.trainer.assembly.threads import configure_threads, reward_limits, warn_of_idle_cores
from es_llm.trainer.data.order import PromptOrder, PromptStream
from es_llm.trainer.loop.output import TrainOutput
from es_llm.trainer.loop.session import Session, Surroundings
from es_llm.trainer.loop.weight_store import Origin
from es_llm.trainer.trl_face import TrlFace
from es_llm.types import RewardFunction, Row
from es_llm.units.completion_log import CompletionLog
from es_llm.units.run_state import Prompts, RunState

logger = logging.getLogger(__name__)

EvalData: TypeAlias = Iterable[Row] | Mapping[str, Iterable[Row]]


class ESTrainer(TrlFace):
    """Fine-tunes all parameters of a causal language model by Evolution Strategies (arXiv 2509.24372).

    The weights of `model` are trained in place; its parameters are cast to `args.dtype` and moved to `args.device`.

    Args:
        model: a transformers model, or a local directory or hub id; None is the embedded tiny model.
        reward_funcs: one function or several, in TRL's contract: keyword arguments `prompts`, `completions`,
            `completion_ids` and every column of the data; one float (or None) per completion.
        args: the options; default: the paper's. Or those of another trainer, such as TRL's `GRPOConfig`: what differs
            from the defaults there and means the same here is taken, a notice names the rest.
        train_dataset: rows with the key `prompt` (text, or messages): a list of dicts, a `datasets.Dataset`, or a
            `datasets.IterableDataset`, whose rows are taken as they come.
        eval_dataset: held-out rows of the same shape, or several sets of them by name, or None.
        processing_class: the tokenizer; default: the model's own.
        callbacks: transformers' `TrainerCallback`s.
        metric_funcs: name -> function in the contract of rewards; its mean over the rows is a metric of evaluation.
        answer_of: the answer in a completion's text, as majority votes count it; None: it has none.
        text_prompts: what the prompts of the data are where they are text; default: text that is sent as it is, as in
            TRL, whatever the tokenizer, unless `args.chat` asks for the chat template.
        team: the ranks; default: MPI when started by mpirun or srun, else this process alone.
        script: options of the command line that are part of the run's identity.
        others: GRPOTrainer's other arguments, where they ask for nothing, such as `peft_config=None`.

    Raises:
        ConfigError, ModelError, RewardError: something can't be used; nothing was written.
    """

    def __init__(
        self,
        model: Any,
        reward_funcs: RewardFunction | Sequence[RewardFunction],
        args: ESConfig | TrainingArguments | None = None,
        train_dataset: Iterable[Row] | None = None,
        eval_dataset: EvalData | None = None,
        processing_class: Any = None,
        callbacks: Sequence[Any] | None = None,
        *,
        metric_funcs: Mapping[str, RewardFunction] | None = None,
        answer_of: Callable[[str], str | None] = str.strip,
        text_prompts: TextPrompts = TextPrompts(),  # noqa: B008
        team: Team | None = None,
        script: ScriptArguments | None = None,
        **others: Any,
    ) -> None:
        open_standard_descriptors()
        _refuse(others)
        require_model(model)
        require_tokenizer(processing_class)
        taken = require_config(args, model, train_dataset, script)
        self.args, self._source, self._hub = taken.config, taken.source, taken.hub
        self.team = team if team is not None else Team(select_mailbox())
        self.script = script
        if taken.notice and self.team.rank == 0:
            logger.warning(taken.notice)
        trackers = make_trackers(self.args)
        configure_threads(self.args, self.team)
        rewards = RewardSet(
            [reward_funcs] if isinstance(reward_funcs, str) else as_list(reward_funcs, "reward_funcs"),
            self.args.reward_weights,
            metrics=metric_funcs,
            limits=reward_limits(self.args, self.team),
        )
        self.model, self.processing_class, self._model_name = _load(model, processing_class, self._source)
        self._model_loaded = self.model is not model
        self._kl_base = copy.deepcopy(model).eval() if self.args.eval_kl and not self._model_loaded else None
        self.answers: list[tuple[str, str]] = []
        if self.args.dtype is None and self.model is not model:
            self.args = replace(self.args, dtype=_own_dtype(self._model_name, self._source))
        self.train_dataset: Any = train_dataset if is_stream(train_dataset) else rows_of(train_dataset, "train_dataset")
        self._form = PromptForm(self.args, self.processing_class, text_prompts)
        self.eval_dataset = self._form.sets(eval_sets(eval_dataset))
        self.answer_of = answer_of
        engine = self._engine()
        prompts = self._prompts(engine)
        engine.check_lengths([row["prompt"] for rows in self.eval_dataset.values() for row in rows])
        self._first = prompts.first()
        rewards.require_columns(columns_of(self._first), "`train_dataset`")
        _require_columns(rewards, self.eval_dataset)
        self.run = self._state(engine, rewards, prompts)
        self._origin = Origin(
            self.run, self.model, self.processing_class, self._load_base if self._model_loaded else None
        )
        self.callbacks = self._callbacks([*as_list(callbacks, "callbacks"), *trackers])
        self._data_identity = data_identity(self.run, script)
        self.run.rewards.open()
        self.callbacks.call("on_init_end")

    def _engine(self) -> HFEngine:
        """The engine; the first rank reports what its look at the model has found."""
        engine = HFEngine(
            self.model,
            self.processing_class,
            max_completion_length=self.args.max_completion_length,
            temperature=self.args.temperature,
            chat_template_kwargs=self.args.chat_template_kwargs,
            skip_special_tokens=self.args.skip_special_tokens,
        )
        self._unused = engine.unused
        if self.team.rank == 0:
            _report(self.model, engine)
        return engine

    def _callbacks(self, others: Sequence[Any]) -> Callbacks:
        """The progress lines and other callbacks, with a state that names the first process."""
        progress = ProgressCallback(opening=self.prompt_lines())
        callbacks = Callbacks([progress, *others], self.args, self.model, self.processing_class)
        callbacks.state.is_world_process_zero = callbacks.state.is_local_process_zero = self.team.rank == 0
        return callbacks

    def _state(self, engine: RolloutEngine, rewards: RewardSet, prompts: Prompts) -> RunState:
        args = self.args
        population = _core.Population(
            run_seed=args.seed,
            population_size=args.population_size,
            antithetic=args.antithetic,
            shaping=args.shaping,
            failure_policy=args.failure_policy,
        )
        weights = Weights(
            self.model,
            dtype=args.dtype,
            frozen=args.frozen,
            unused=self._unused,
            device=device_of_rank(args.device, self.team.local_rank),
            master_device=args.master_device,
        )
        return RunState(
            config=args,
            team=self.team,
            population=population,
            weights=weights,
            engine=engine,
            rewards=rewards,
            prompts=prompts,
        )

    def train(self, resume_from_checkpoint: str | bool | None = None) -> TrainOutput:
        """Train to `args.max_steps`, and leave the run's directory complete.

        Args:
            resume_from_checkpoint: the directory of a run to go on with; True: `args.output_dir`.

        Raises:
            ConfigError: the directory holds another run.
            ResumeError: the run to go on with had other options; the message names them.
            JournalError: the disk refuses the journal; what was saved stays safe.
            LeftOutError: this rank failed or was too late, and the others ended the run without it.
        """
        config = self.args
        if resume_from_checkpoint:
            if resume_from_checkpoint is True and config.output_dir is None:
                raise ConfigError("`resume_from_checkpoint` True needs `output_dir`, got None")
            place = config.output_dir if resume_from_checkpoint is True else str(resume_from_checkpoint)
            config = replace(config, resume_from_checkpoint=place)
        warn_of_idle_cores(config, self.team, self.run.weights.device.type)
        header = self._header()
        session = Session(
            self.run,
            self.callbacks,
            Surroundings(
                open_run=lambda: open_run(config, header, self._run_name(), self.team.mailbox.job, self.team.rank),
                header=header,
                options=self._config_json(),
                evaluation=self._evaluation,
                origin=self._origin,
            ),
        )
        self._renew(header)
        try:
            output = session.output(self.team.call(session))
            self._directory = Path(output.output_dir)
            return output
        except JournalTakenError as error:
            raise session.taken_over(error) from error
        finally:
            session.close()

    def evaluate(self, eval_dataset: EvalData | None = None, *, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Metrics of the current weights on `eval_dataset` (default: the trainer's), names led by `eval_` or another
        `metric_key_prefix`.

        With `args.log_completions` each rank keeps its completions in `args.output_dir`.

        Raises:
            ConfigError: there are no rows.
        """
        sets = self.eval_dataset if eval_dataset is None else self._form.sets(eval_sets(eval_dataset))
        if not sets:
            raise ConfigError("`eval_dataset` must hold at least one row, got none")
        _require_columns(self.run.rewards, sets)
        self._renew(self._header())
        log = CompletionLog(self.team.rank) if self.args.log_completions and self.args.output_dir else None
        work = EvaluationWork(self.run, self._evaluation_sets(sets), ROUND, _keeper(log, self.run.population.iteration))
        program = Evaluate(work, self.args.num_completions_to_print)
        metrics = json.loads(self.team.call(program))
        if log is not None and self.args.output_dir:
            log.write(Path(self.args.output_dir), "eval")
        self.answers = program.evaluation.answers if program.evaluation is not None else []
        return {f"{metric_key_prefix}_{name}": value for name, value in metrics.items()}

    def prompt_lines(self, *, held_out: bool = False) -> list[str]:
        """Lines for people: in which form prompts reach the model, the first one exactly as the model gets it, and what
        was done to special tokens.

        Args:
            held_out: of the first row to evaluate on, if there is one, not of the first row to train on.
        """
        rows = next(iter(self.eval_dataset.values())) if held_out and self.eval_dataset else [self._first]
        return [self._form.describe(), *self.run.engine.describe(rows[0]["prompt"])]

    def save_model(self, output_dir: str | os.PathLike[str] | None = None) -> None:
        """Write the current weights as a Hugging Face directory (the leading rank alone writes).

        Args:
            output_dir: the directory; None, or that of the run: `model` in the run's directory, beside its journal.

        Raises:
            ConfigError: None, and there is neither a run nor `args.output_dir`.
            ModelError: the directory holds files that are no export, or the disk refuses.
        """
        target = self._model_directory(output_dir)
        self._lead(lambda: self._origin.export(target))

    def _lead(self, work: Callable[[], None]) -> None:
        self._renew(self._header())
        self.team.call(Lead(work))

    def _prompts(self, engine: RolloutEngine) -> Prompts:
        """The training data by iteration; prompts too long for the model are refused, a stream's as they come."""
        args = self.args
        order: dict[str, Any] = {
            "per_iteration": args.prompts_per_iteration,
            "seed": args.seed,
            "shuffle": args.shuffle_dataset,
        }
        fixed = args.prompt_schedule == "fixed"

        def checked(rows: Iterable[Any]) -> list[Row]:
            known = self._form.rows(rows_of(rows, "train_dataset"), "train_dataset")
            engine.check_lengths([row["prompt"] for row in known])
            return known

        if is_stream(self.train_dataset) and not fixed:
            return PromptStream(self.train_dataset, checked=checked, **order)
        rows = self.train_dataset
        if is_stream(rows):
            rows = itertools.islice(rows, args.prompts_per_iteration)
        return PromptOrder(checked(rows), fixed=fixed, **order)

    def _evaluation(self, round_: Round, log: CompletionLog | None) -> EvaluationWork | None:
        if not self.eval_dataset:
            return None
        keep = _keeper(log, round_.step)
        return EvaluationWork(self.run, self._evaluation_sets(self.eval_dataset), round_, keep)

    def _evaluation_sets(self, sets: Mapping[str, Sequence[Row]]) -> EvaluationSets:
        base = self._base_for_kl if self.args.eval_kl else None
        return EvaluationSets(sets=sets, answer_of=self.answer_of, base=base)

    def compare_with(self, model_name_or_path: str) -> None:
        """Let `eval_kl` be the KL to this model, not to the one that this trainer begins from.

        Raises:
            ModelError: it can't be loaded.
        """
        self._kl_base = self._beside(load_model(model_name_or_path))

    def _base_for_kl(self) -> Any:
        """The base model in the live type, beside the one under training; made when it is first asked for."""
        if self._kl_base is None:
            self._kl_base = self._beside(self._load_base())
        return self._kl_base

    def _beside(self, model: Any) -> Any:
        """A model loaded by name, in the types and on the device of the one under training."""
        live = next(self.model.parameters())
        cast_parameters(model, self.args.dtype or _dtype_name(self.model), live.device)
        return model.eval()

    def _load_base(self) -> Any:
        source = self._source
        base = load_model(self._model_name, revision=source.model_revision, trust_remote_code=source.trust_remote_code)
        return use_attention(base, source.attn_implementation)

    def _renew(self, header: str) -> None:
        identity = hashlib.sha256(json.dumps(json.loads(header)["identity"], sort_keys=True).encode()).digest()
        self.team.renew(
            int.from_bytes(identity[:8], "little"),
            policy=self.args.schedule,
            unit_timeout_s=self.args.unit_timeout_s,
        )

    def _header(self) -> str:
        identity = run_identity(self.run, self._data_identity)
        return encode_header(identity, {**self._about(), "options": self._config_json()})

    def _about(self) -> dict[str, Any]:
        return {
            "model_name_or_path": self._model_name,
            "revision": self._source.model_revision,
            "es_llm": es_llm.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": str(self.run.weights.device),
        }

    def _config_json(self) -> dict[str, Any]:
        return {**(asdict(self.script) if self.script else {}), **asdict(self.args)}

    def _run_name(self) -> str:
        model = Path(self._model_name or "model").name or "model"
        task = self.script and (self.script.task or Path(self.script.dataset_name or "countdown").stem)
        return f"{model}-{task.replace(':', '-')}" if task else model


def _require_columns(rewards: RewardSet, sets: Mapping[str, Sequence[Row]]) -> None:
    for name, rows in sets.items():
        where = f"`eval_dataset[{name!r}]`" if name else "`eval_dataset`"
        rewards.require_columns(columns_of(rows[0]), where, metrics=True)


def _report(model: torch.nn.Module, engine: HFEngine) -> None:
    """Log what the engine's first look at the model means for the run, and what its files hold beyond it."""
    if engine.unused:
        named = dict(model.named_parameters())
        share = sum(named[name].numel() for name in engine.unused) / sum(weight.numel() for weight in named.values())
        logger.warning(
            "%d of %d parameters (%.0f%% of the weights) take no part when the model reads and writes text, and stay "
            "as they are: %s", len(engine.unused), len(named), 100 * share, some(groups(model, engine.unused)),
        )  # fmt: skip
    if engine.batching is not Batching.PADDED:
        logger.warning(
            "%s gives other answers when prompts of different lengths share a batch: a batch holds %s, which is slower",
            type(model).__name__, engine.batching.value,
        )  # fmt: skip
    if (left := left_out_of(model)) is not None:
        logger.warning("%s", left.message())


def _keeper(log: CompletionLog | None, step: int) -> Keep | None:
    if log is None:
        return None

    def keep(name: str, rows: Sequence[Row], samples: int, completions: list[Completion], graded: Graded) -> None:
        log.keep(rows, completions, graded, samples=samples, step=step, set=name)

    return keep


def _load(model: Any, processing_class: Any, source: ModelSource) -> tuple[Any, Any, str | None]:
    """The module, its tokenizer and the model's name."""
    if isinstance(model, os.PathLike):
        model = os.fspath(model)
    named = model is None or isinstance(model, str)
    name = (model or EMBEDDED) if named else getattr(getattr(model, "config", None), "_name_or_path", None)
    revision, trust = source.model_revision, source.trust_remote_code
    if named:
        model = load_model(name, revision=revision, trust_remote_code=trust)
        use_attention(model, source.attn_implementation)
    if processing_class is None:
        if not name:
            raise ConfigError("`processing_class` must be given with a model that doesn't know where it came from")
        processing_class = load_tokenizer(name, revision=revision, trust_remote_code=trust)
    return model, processing_class, name


def _refuse(arguments: Mapping[str, Any]) -> None:
    """Arguments of other trainers; each has a reason or a counterpart."""
    known = inspect.signature(ESTrainer.__init__).parameters.keys() - {"self", "others"}
    for name, value in arguments.items():
        if (error := unknown_argument(name, value, known)) is not None:
            raise error


def _dtype_name(model: torch.nn.Module) -> str | None:
    """The type of most of its weights; None: one that can't be a live type."""
    sizes: dict[torch.dtype, int] = {}
    for weight in model.parameters():
        sizes[weight.dtype] = sizes.get(weight.dtype, 0) + weight.numel()
    name = str(max(sizes, key=lambda dtype: sizes[dtype])).removeprefix("torch.")
    return name if name in DTYPES else None


def _own_dtype(name: str | None, source: ModelSource) -> str | None:
    """Type of the live weights when none is asked for: that of the checkpoint, but float32 for the embedded model,
    whose file is float16 only to be small."""
    if name in (None, EMBEDDED):
        return "float32"
    return stored_dtype(name, revision=source.model_revision)
