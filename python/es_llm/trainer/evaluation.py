"""Evaluation of the unperturbed weights on held-out rows, spread over the ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from es_llm._core import plan_units
from es_llm.rewards.scoring import Batch, call_reward
from es_llm.trainer.dispatch import Scores, gather, own_units
from es_llm.trainer.state import RunState
from es_llm.types import RewardFunction, Row


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics (means over the rows) and, on rank 0, the first few answers as (prompt, completion) texts."""

    metrics: dict[str, float]
    answers: list[tuple[str, str]]


def evaluate(
    run: RunState, rows: Sequence[Row], metric_funcs: Mapping[str, RewardFunction], answers: int = 0
) -> Evaluation:
    """Answer `rows` with round(master) and score them; the same figures on any number of ranks.

    Metrics: one per function of `metric_funcs`, then `reward`, `completions/mean_length` (tokens) and
    `completions/clipped_ratio` (share cut off by `max_completion_length`). A score that failed counts as 0.
    """
    units = plan_units(1, len(rows), run.config.prompts_per_unit)
    run.weights.unperturb()
    run.engine.weights_changed()
    own: dict[int, Scores] = {}
    shown: list[tuple[str, str]] = []
    for unit in own_units(run.comm.rank, run.comm.size, units):
        part = rows[unit.start : unit.stop]
        completions = run.engine.evaluate([row["prompt"] for row in part])
        batch = Batch.of(part, [c.text for c in completions], [c.token_ids for c in completions])
        columns = [call_reward(name, function, batch)[0] for name, function in metric_funcs.items()]
        columns.append(run.rewards.score(batch))
        columns.append([len(c.token_ids) for c in completions])
        columns.append([float(not c.finished) for c in completions])
        own[unit.index] = np.array(columns, np.float64).T
        if len(shown) < answers:
            texts = ((str(row["prompt"]), c.text) for row, c in zip(part, completions, strict=True))
            shown.extend(list(texts)[: answers - len(shown)])
    names = [*metric_funcs, "reward", "completions/mean_length", "completions/clipped_ratio"]
    table = gather(run.comm, units, own, columns=len(names))[0]
    means = np.nan_to_num(table, nan=0.0).mean(axis=0)
    return Evaluation(metrics={name: float(mean) for name, mean in zip(names, means, strict=True)}, answers=shown)
