"""The evaluations of a run: when the next one is due, which was the best, and whether patience is over.

All of it is a function of the iteration and of the journaled metrics, never of when a call of `train` began, so an
interrupted run gets the same answers. The iteration of an evaluation is the number of iterations before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from es_llm.checkpoint import events
from es_llm.checkpoint.events import Event
from es_llm.config import ESConfig
from es_llm.errors import ConfigError
from es_llm.evaluation.work import Evaluation


@dataclass(frozen=True)
class Best:
    """The best value of the metric, its iteration, and the number of evaluations after it."""

    iteration: int
    value: float
    later: int


class EvaluationHistory:
    """The evaluations of a run, by iteration."""

    def __init__(self, config: ESConfig) -> None:
        self._config = config
        self._known: dict[int, Evaluation] = {}

    def get(self, *iterations: int) -> Evaluation | None:
        """The evaluation after the first of these iterations that has one; None if none has."""
        return next((self._known[iteration] for iteration in iterations if iteration in self._known), None)

    def add(self, iteration: int, evaluation: Evaluation) -> None:
        """Add an evaluation; one without metrics if there were no rows to evaluate."""
        self._known[iteration] = evaluation

    def due(self, iteration: int, *, last: bool, asked: bool) -> bool:
        """True if an evaluation is due. `last`: no iteration follows; `asked`: a callback asked for it."""
        config = self._config
        if iteration in self._known:
            return False
        first = config.eval_on_start and iteration == 0
        regular = config.eval_steps > 0 and iteration > 0 and iteration % config.eval_steps == 0
        return first or regular or last or asked

    @property
    def best(self) -> Best | None:
        """The first evaluation with the best value of `metric_for_best_model`; None without that option or evaluations.

        With `eval_steps` only the regular evaluations, the first and the last one count, not those at which an earlier
        call ended.
        """
        config = self._config
        if config.metric_for_best_model is None:
            return None
        name = config.metric_for_best_model.removeprefix("eval_")
        counted = {iteration: each.metrics for iteration, each in self._known.items() if self._counts(iteration)}
        known = sorted((iteration, metrics) for iteration, metrics in counted.items() if metrics)
        if not known:
            return None
        for _, metrics in known:
            if name not in metrics:
                raise ConfigError(f"`metric_for_best_model` must be one of {sorted(metrics)}, got {name!r}")
        sign = 1.0 if config.greater_is_better else -1.0
        best = max(range(len(known)), key=lambda index: (sign * known[index][1][name], -index))
        iteration, metrics = known[best]
        return Best(iteration, metrics[name], len(known) - 1 - best)

    @property
    def hopeless(self) -> bool:
        """True if `early_stopping_patience` is over."""
        patience, best = self._config.early_stopping_patience, self.best
        return patience > 0 and best is not None and best.later >= patience

    def event(self, iteration: int) -> Event:
        """The evaluation after an iteration as an event of the journal."""
        known = self._known[iteration]
        return events.happened("evaluation", iteration, metrics=known.metrics, answers=known.answers)

    def read(self, event: Event) -> bool:
        """Add the evaluation that an event of a journal describes; False if the event is of another kind."""
        if not events.is_evaluation(event):
            return False
        answers = [(prompt, completion) for prompt, completion in event.get("answers", [])]
        self._known[event["step"]] = Evaluation(metrics=event["metrics"], answers=answers)
        return True

    def missing(self, journaled: Sequence[Event]) -> list[Event]:
        """Events of the evaluations that are not among those of a journal."""
        present = {event["step"] for event in journaled if events.is_evaluation(event)}
        return [self.event(each) for each in sorted(self._known.keys() - present) if self._known[each].metrics]

    def _counts(self, iteration: int) -> bool:
        last, regular = self._config.max_steps, self._config.eval_steps
        return iteration == last or not regular or iteration % regular == 0
