"""Which evaluation was the best so far; a function of the evaluations, so that a resumed run knows it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from es_llm.config import ESConfig
from es_llm.errors import ConfigError
from es_llm.trainer.evaluation import Evaluation


@dataclass(frozen=True)
class Best:
    """The best value of the metric, after how many iterations, and how many evaluations came after it."""

    step: int
    value: float
    later: int


def best_of(config: ESConfig, evaluations: Mapping[int, Evaluation]) -> Best | None:
    """The first evaluation with the best value of `metric_for_best_model`; None without that option or evaluations.

    Where there is a schedule (`eval_steps`) its evaluations count, the first and the last one: not those at whose steps
    an earlier call ended, so that a run comes to the same however often it was interrupted.

    Raises:
        ConfigError: no evaluation has such a metric; names those that there are.
    """
    if config.metric_for_best_model is None:
        return None
    name = config.metric_for_best_model.removeprefix("eval_")
    told = sorted(
        (step, evaluation.metrics)
        for step, evaluation in evaluations.items()
        if evaluation.metrics and (step == config.max_steps or not config.eval_steps or step % config.eval_steps == 0)
    )
    if not told:
        return None
    for _, metrics in told:
        if name not in metrics:
            raise ConfigError(f"`metric_for_best_model` must be one of {sorted(metrics)}, got {name!r}")
    sign = 1.0 if config.greater_is_better else -1.0
    place = max(range(len(told)), key=lambda place: (sign * told[place][1][name], -place))
    return Best(told[place][0], told[place][1][name], len(told) - 1 - place)
