"""Which evaluations a run has had, when the next one is due, which was the best, and whether to go on hoping.

All of it is a function of the step and of the journaled figures, never of when a call of train began: a run that was
interrupted comes to the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from es_llm.config import ESConfig
from es_llm.errors import ConfigError
from es_llm.evaluation.work import Evaluation


@dataclass(frozen=True)
class Best:
    """The best value of the metric, after how many iterations, and how many evaluations came after it."""

    step: int
    value: float
    later: int


class Evaluations:
    """The evaluations of a run, by step."""

    def __init__(self, config: ESConfig) -> None:
        self._config = config
        self._known: dict[int, Evaluation] = {}

    def get(self, step: int) -> Evaluation | None:
        """The one after so many iterations."""
        return self._known.get(step)

    def add(self, step: int, evaluation: Evaluation) -> None:
        """One was made; without metrics if there was nothing to evaluate."""
        self._known[step] = evaluation

    def due(self, step: int, *, last: bool, asked: bool) -> bool:
        """Whether one is due. `last`: no iteration comes after it; `asked`: a callback wants one."""
        config = self._config
        if step in self._known:
            return False
        first = config.eval_on_start and step == 0
        regular = config.eval_steps > 0 and step > 0 and step % config.eval_steps == 0
        return first or regular or last or asked

    @property
    def best(self) -> Best | None:
        """The first one with the best value of `metric_for_best_model`; None without that option or evaluations.

        Where there is a schedule (`eval_steps`) its evaluations count, the first and the last one: not those at whose
        steps an earlier call ended.

        Raises:
            ConfigError: an evaluation has no such metric; names those that there are.
        """
        config = self._config
        if config.metric_for_best_model is None:
            return None
        name = config.metric_for_best_model.removeprefix("eval_")
        told = sorted(
            (step, known.metrics) for step, known in self._known.items() if known.metrics and self._counts(step)
        )
        if not told:
            return None
        for _, metrics in told:
            if name not in metrics:
                raise ConfigError(f"`metric_for_best_model` must be one of {sorted(metrics)}, got {name!r}")
        sign = 1.0 if config.greater_is_better else -1.0
        place = max(range(len(told)), key=lambda place: (sign * told[place][1][name], -place))
        return Best(told[place][0], told[place][1][name], len(told) - 1 - place)

    @property
    def hopeless(self) -> bool:
        """Whether `early_stopping_patience` is over."""
        patience, best = self._config.early_stopping_patience, self.best
        return patience > 0 and best is not None and best.later >= patience

    def event(self, step: int) -> dict[str, Any]:
        """One for the journal."""
        evaluation = self._known[step]
        return {"event": "evaluation", "step": step, "metrics": evaluation.metrics, "answers": evaluation.answers}

    def hear(self, event: dict[str, Any]) -> bool:
        """Take one from an event of a journal; false if it is something else."""
        if event.get("event") != "evaluation":
            return False
        answers = [(prompt, completion) for prompt, completion in event.get("answers", [])]
        self._known[event["step"]] = Evaluation(metrics=event["metrics"], answers=answers)
        return True

    def missing(self, events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Those that a journal with these events lacks, as events."""
        told = {event["step"] for event in events if event.get("event") == "evaluation"}
        return [self.event(step) for step in sorted(self._known.keys() - told) if self._known[step].metrics]

    def _counts(self, step: int) -> bool:
        return step == self._config.max_steps or not self._config.eval_steps or step % self._config.eval_steps == 0
