"""Advice at the start of a run: the engine `batched`, where one member at a time fills a batch badly."""

from __future__ import annotations

import logging
from typing import Any, Final

from es_llm.config import ESConfig
from es_llm.errors import EsError
from es_llm.model.table import ParameterTable
from es_llm.rollout.batched.check import can_batch
from es_llm.rollout.engines.batched import ROWS_PER_UNIT
from es_llm.rollout.engines.hf import HFEngine
from es_llm.rollout.probe import Batching
from es_llm.units.run_state import RunState

logger = logging.getLogger(__name__)

FEW_ROWS: Final = 8
"""Up to this number of completions per member, `batched` makes at least twice the tokens per second of `hf`
(measured: docs/engines.md). With 64 both make the same number, so nobody is advised to leave `batched`."""


def advise_engine(run: RunState, model: Any, config: ESConfig) -> None:
    """Rank 0 logs one line if a new run would generate much faster with the engine `batched`."""
    is_new = config.resume_from_checkpoint is None and run.population.iteration == 0
    if run.team.rank != 0 or not is_new or config.engine != "hf":
        return
    rows = run.prompts.per_iteration * config.num_generations
    if not is_small(rows, config.population_size, run.team.size) or not _could_batch(run, model, config):
        return
    rank = config.rank if config.perturbation == "low_rank" else 1
    logger.warning(
        "%d completion(s) per member and iteration fill a batch badly with `engine` hf, one member at a time; "
        "`--engine batched --perturbation low_rank --rank %d` decodes many members in one batch, several times faster "
        "(docs/engines.md)", rows, rank,
    )  # fmt: skip


def is_small(rows: int, members: int, ranks: int) -> bool:
    """True if members have few rows, and all members together have at least a full unit of `batched` for each rank."""
    return rows <= FEW_ROWS and rows * members >= ROWS_PER_UNIT * ranks


def _could_batch(run: RunState, model: Any, config: ESConfig) -> bool:
    """True if the trained parameters can have low-rank noise, and the model decodes members in one batch."""
    engine = run.engine
    if config.perturbation not in ("dense", "low_rank") or not isinstance(engine, HFEngine):
        return False
    if not engine.uses_decoder or engine.batching is Batching.ALONE:
        return False
    trained = {parameter.name for parameter in run.weights.table.parameters}
    unused = {name for name, _ in model.named_parameters() if name not in trained}
    try:
        table = ParameterTable.from_module(model, unused=unused, perturbation="low_rank")
    except EsError:
        return False
    return can_batch(model, table)
