"""From options to a trainer: the task by name, its rewards or the user's, the model."""

from __future__ import annotations

from es_llm.config import ESConfig, ScriptArguments
from es_llm.rewards.loading import load_reward
from es_llm.tasks import load_task
from es_llm.team import Team
from es_llm.trainer import ESTrainer


def assemble(script: ScriptArguments, config: ESConfig, team: Team) -> ESTrainer:
    """A trainer for these options.

    Raises:
        ConfigError, ModelError, RewardError: something named in the options can't be used.
    """
    task = load_task(script.task, **script.task_args)
    functions = [load_reward(reference) for reference in script.reward_funcs] or list(task.reward_funcs)
    return ESTrainer(
        model=script.model_name_or_path,
        reward_funcs=functions,
        args=config,
        train_dataset=task.train,
        eval_dataset=task.eval,
        metric_funcs=task.metric_funcs,
        team=team,
        script=script,
    )
