"""Figures of one iteration, under TRL's names where the meaning is the same. Equal on every rank, but for times."""

from __future__ import annotations

from typing import Any

import numpy as np

from es_llm._core import Record
from es_llm.trainer.iteration import FINISHED, LENGTH, Iteration


def iteration_metrics(iteration: Iteration) -> dict[str, Any]:
    """Metrics of a finished iteration: those of its record, of its completions and of its update."""
    report, scores, seconds = iteration.report, iteration.scores, iteration.seconds
    total = sum(seconds.values())
    return {
        **record_metrics(iteration.record),
        "completions/mean_length": float(np.nanmean(scores[..., LENGTH])),
        "completions/clipped_ratio": float(1.0 - np.nanmean(scores[..., FINISHED])),
        "rewards/failures": iteration.failures,
        "update/norm": report.update_norm,
        "update/cosine": report.cosine,
        "update/moved_ratio": report.moved / report.elements,
        "update/nonfinite": report.nonfinite,
        "seconds": total,
        **{f"seconds/{name}": value for name, value in seconds.items()},
    }


def record_metrics(record: Record) -> dict[str, Any]:
    """The part of the metrics that the journal alone can tell: a resumed log is filled up from it."""
    fitness = np.array([value for value in record.fitness if value is not None], np.float64)
    if not len(fitness):
        fitness = np.zeros(1)
    return {
        "step": record.iteration + 1,
        "reward": float(fitness.mean()),
        "reward_std": float(fitness.std()),
        "fitness/max": float(fitness.max()),
        "fitness/min": float(fitness.min()),
        "sigma": record.sigma,
        "learning_rate": record.learning_rate,
    }
