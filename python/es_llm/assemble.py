"""Builds a trainer from the options of the command line."""

from __future__ import annotations

import itertools
from typing import Any, Final

from es_llm.config import ESConfig, ScriptArguments
from es_llm.config.script import DEFAULT_TASK
from es_llm.data.loading import has_split, load_split, renamed
from es_llm.errors import ConfigError
from es_llm.rewards.call import load_reward
from es_llm.tasks import Task, load_task
from es_llm.tasks.base import Splits
from es_llm.team import Team
from es_llm.trainer import ESTrainer


def assemble(script: ScriptArguments, config: ESConfig, team: Team) -> ESTrainer:
    """A trainer for these options.

    Raises:
        ConfigError, ModelError, RewardError: a task, data set, model or reward function can't be used.
    """
    task = _task(script)
    functions = [load_reward(reference) for reference in script.reward_funcs] or list(task.reward_funcs)
    return ESTrainer(
        model=script.model_name_or_path,
        reward_funcs=functions,
        args=config,
        train_dataset=task.train,
        eval_dataset=_held_out(task, script),
        metric_funcs=task.metric_funcs,
        answer_of=task.answer_of,
        text_prompts=task.text_prompts,
        team=team,
        script=script,
        task_name=None if script.task is None and script.dataset_name is not None else task.name,
    )


def _held_out(task: Task, script: ScriptArguments) -> Any:
    """The task's held-out rows, at most `max_eval_samples`."""
    most = script.max_eval_samples
    return task.eval if most is None or task.eval is None else list(itertools.islice(task.eval, most))


STREAMED_EVAL_ROWS: Final = 1000
"""Number of held-out rows read from a stream without `max_eval_samples`."""


def _task(script: ScriptArguments) -> Task:
    """The task of the name, on its own rows or on those of the data set. Without a task: the rows of the data set."""
    if script.dataset_name is None:
        return load_task(script.task or DEFAULT_TASK, **script.task_args)
    if script.task is None and not script.reward_funcs:
        raise ConfigError("`dataset_name` needs `reward_funcs`, or a `task` that scores such rows")
    return load_task(script.task or "rows", data=_splits(script), **script.task_args)


def _splits(script: ScriptArguments) -> Splits:
    assert script.dataset_name is not None
    name, config, columns = script.dataset_name, script.dataset_config, script.dataset_columns

    def load(split: str, streaming: bool) -> Any:
        loaded = load_split(name, split, config=config, streaming=streaming)
        return renamed(loaded, columns) if columns else loaded

    test, streaming, most = script.dataset_test_split, script.dataset_streaming, script.max_eval_samples
    held_out: Any = []
    if test != "test" or has_split(name, test, config=config):
        held_out = load(test, streaming)
        if streaming or most is not None:  # all held-out rows are kept in memory, and a stream may not end
            held_out = list(itertools.islice(held_out, most or STREAMED_EVAL_ROWS))
    return Splits(train=load(script.dataset_train_split, streaming), eval=held_out)
