"""The result of a training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from es_llm.evaluation.history import EvaluationHistory
from es_llm.units.run_state import RunState


@dataclass(frozen=True, kw_only=True)
class TrainOutput:
    """What `ESTrainer.train` returns.

    global_step: number of iterations.
    metrics: the content of `result.json`.
    output_dir: the run's directory.
    answers_before, answers_after: (prompt, completion), on the leading rank.
    interrupted: a signal ended the training after a record; the run can be resumed.
    """

    global_step: int
    metrics: dict[str, Any]
    output_dir: str
    answers_before: list[tuple[str, str]] = field(default_factory=list)
    answers_after: list[tuple[str, str]] = field(default_factory=list)
    interrupted: bool = False

    @property
    def training_loss(self) -> float:
        """NaN: Evolution Strategies have no loss. For code that prints transformers' `TrainOutput`."""
        return float("nan")


def result_of(run: RunState, history: EvaluationHistory, *, resumed_at: int, seconds: float) -> dict[str, Any]:
    """The content of `result.json`."""
    step, best = run.population.iteration, history.best
    before, after = history.get(0, resumed_at), history.get(step)
    result = {
        "steps": step,
        "seconds": seconds,
        "eval_before": None if before is None else before.metrics,
        "eval_after": None if after is None else after.metrics,
        "weights_sha256": run.weights.sha256(),
        "parameters": run.weights.table.elements,
        "ranks": run.team.size,
        "ranks_lost": len(run.team.losses),
    }
    return result if best is None else {**result, "best": {"step": best.iteration, "value": best.value}}
