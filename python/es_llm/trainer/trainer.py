"""`ESTrainer`: the trainer that TRL users expect, by Evolution Strategies."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from es_llm.checkpoint.opening import RunOpener
from es_llm.config import ESConfig, ScriptArguments
from es_llm.config.foreign import unknown_argument
from es_llm.data.messages import TextPrompts
from es_llm.errors import ConfigError, JournalTakenError
from es_llm.evaluation.program import evaluate
from es_llm.evaluation.work import EvaluationSets
from es_llm.team import Team, run_on_leader, run_program, together
from es_llm.trainer.assembly.cores import warn_of_idle_cores
from es_llm.trainer.assembly.engine_choice import advise_engine
from es_llm.trainer.assembly.memory import fit_batches
from es_llm.trainer.assembly.parts import EvalData, build_run
from es_llm.trainer.loop.output import TrainOutput
from es_llm.trainer.loop.run_log import RunLog
from es_llm.trainer.loop.session import Session
from es_llm.trainer.loop.weight_store import export
from es_llm.trainer.trl_face import TrlFace
from es_llm.types import RewardFunction, Row


class ESTrainer(TrlFace):
    """Fine-tunes all parameters of a causal language model by Evolution Strategies (arXiv 2509.24372).

    The weights of `model` are trained in place; its parameters are cast to `args.dtype` and moved to `args.device`.

    Args:
        model: a transformers model, or a local directory or hub id; None is the embedded tiny model.
        reward_funcs: one function or several, in TRL's contract: keyword arguments `prompts`, `completions`,
            `completion_ids` and every column of the data; one float (or None) per completion.
        args: the options; default: the paper's. Or those of another trainer, such as TRL's `GRPOConfig`: options that
            differ from their defaults and mean the same here are used, and a notice lists the rest.
        train_dataset: rows with the key `prompt` (text, or messages): a list of dicts, a `datasets.Dataset`, or a
            `datasets.IterableDataset`, whose rows are read in order.
        eval_dataset: held-out rows of the same shape, or several sets of them by name, or None.
        processing_class: the tokenizer; default: the model's own.
        callbacks: transformers' `TrainerCallback`s.
        metric_funcs: name -> function in the contract of rewards; its mean over the rows is a metric of evaluation.
        answer_of: returns the answer in a completion's text, for majority votes; None: there is no answer.
        text_prompts: describes prompts that are text; default: text is sent unchanged, as in TRL, with any tokenizer,
            unless `args.chat` asks for the chat template.
        team: the ranks; default: MPI when started by mpirun or srun, else this process alone.
        script: options of the command line that are part of the run's identity.
        task_name: name of the task, for the default directory of the run.
        others: GRPOTrainer's other arguments, with values that have no effect, such as `peft_config=None`.

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
        task_name: str | None = None,
        **others: Any,
    ) -> None:
        _refuse(others)
        self._parts = build_run(
            model=model,
            reward_funcs=reward_funcs,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            metric_funcs=metric_funcs,
            answer_of=answer_of,
            text_prompts=text_prompts,
            team=team,
            script=script,
            task_name=task_name,
        )
        self.run, self.callbacks = self._parts.run, self._parts.callbacks
        self.args, self.team = self.run.config, self.run.team
        self._config = self.run.config
        self.model, self.processing_class = self._parts.model.module, self._parts.model.tokenizer
        self.train_dataset, self.eval_dataset = self._parts.train_dataset, self._parts.sets
        self.answers: list[tuple[str, str]] = []
        self._model_name, self._hub = self._parts.model.name, self._parts.hub

    def train(self, resume_from_checkpoint: str | bool | None = None) -> TrainOutput:
        """Train to `args.max_steps`, and leave the run's directory complete.

        Args:
            resume_from_checkpoint: the directory of a run to resume; True: `args.output_dir`.

        Raises:
            ConfigError: the directory holds another run.
            ResumeError: the run to resume had other options; the message names them.
            JournalError: the disk refuses the journal; what was saved stays safe.
            LeftOutError: this rank failed or was too late, and the others ended the run without it.
        """
        config = self._config
        if resume_from_checkpoint:
            if resume_from_checkpoint is True and config.output_dir is None:
                raise ConfigError("`resume_from_checkpoint` True needs `output_dir`, got None")
            directory = config.output_dir if resume_from_checkpoint is True else str(resume_from_checkpoint)
            config = replace(config, resume_from_checkpoint=directory)
        parts, header, team = self._parts, self._parts.header, self.team
        warn_of_idle_cores(config, team, self.run.weights.device.type)
        advise_engine(self.run, self.model, config)
        data = parts.evaluation_sets()
        self._fit(config, data, training=True)
        job, rank = team.mailbox.job, team.rank
        text, name, population = header.text(), header.run_name, self.run.population
        opener = RunOpener(config=config, population=population, header=text, name=name, job=job, rank=rank)
        log = RunLog(parts.run, parts.callbacks, opener, header.options)
        session = Session(parts.run, parts.model, parts.callbacks, log, data)
        header.renew_team(opener.header)
        try:
            output = session.output(run_program(team, session))
        except JournalTakenError as error:
            raise log.taken_over(error) from error
        finally:
            log.close()
        self._directory = Path(output.output_dir)
        return output

    def evaluate(self, eval_dataset: EvalData | None = None, *, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Metrics of the current weights on `eval_dataset` (default: the trainer's). Names have the prefix `eval_`, or
        another `metric_key_prefix`. The leading rank's first answers are in `answers` afterwards.

        With `args.log_completions` each rank keeps its completions in `args.output_dir`.

        Raises:
            ConfigError: there are no rows.
        """
        data = self._parts.evaluation_sets(eval_dataset)
        if data is None:
            raise ConfigError("`eval_dataset` must hold at least one row, got none")
        self._fit(self._config, data, training=False)
        self._parts.header.renew_team()
        evaluation = evaluate(self.run, data)
        self.answers = evaluation.answers
        return {f"{metric_key_prefix}_{name}": value for name, value in evaluation.metrics.items()}

    def prompt_lines(self, *, held_out: bool = False) -> list[str]:
        """Lines for people: the form in which prompts reach the model, the first prompt exactly as the model gets it,
        and what was done to special tokens.

        Args:
            held_out: describe the first row to evaluate on, if there is one, instead of the first row to train on.
        """
        rows = next(iter(self.eval_dataset.values())) if held_out and self.eval_dataset else [self.run.prompts.first()]
        return [self._parts.form.describe(), *self.run.engine.describe(rows[0]["prompt"])]

    def save_model(self, output_dir: str | os.PathLike[str] | None = None) -> None:
        """Write the current weights as a Hugging Face directory (the leading rank alone writes).

        Args:
            output_dir: the directory; None, or that of the run: `model` in the run's directory, beside its journal.

        Raises:
            ConfigError: None, and there is neither a run nor `args.output_dir`.
            ModelError: the directory holds files that are no export, or the disk refuses.
        """
        target = self._model_directory(output_dir)
        self._lead(lambda: export(self.run, self._parts.model, target))

    def compare_with(self, model_name_or_path: str) -> None:
        """Let `eval_kl` be the KL to this model, not to the model that this trainer begins from.

        Raises:
            ModelError: it can't be loaded.
        """
        self._parts.model.compare_with(model_name_or_path, self.args.dtype)

    def _fit(self, config: ESConfig, sets: EvaluationSets | None, *, training: bool) -> None:
        """Choose the number of rows that are decoded at a time, unless iterations were made with it already."""
        if self.run.population.iteration == 0:
            together(self.team, lambda: fit_batches(self.run, config, sets, training=training))
            self.args = self.run.config

    def _lead(self, work: Callable[[], None]) -> None:
        self._parts.header.renew_team()
        run_on_leader(self.team, work)


def _refuse(arguments: Mapping[str, Any]) -> None:
    known = inspect.signature(ESTrainer.__init__).parameters.keys() - {"self", "others"}
    for name, value in arguments.items():
        if (error := unknown_argument(name, value, known)) is not None:
            raise error
