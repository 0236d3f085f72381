"""The number of rows that are decoded at a time, from the free memory at the start of a run.

The number may change the last bits of logits, so it is part of the run's identity, the same on all ranks, and never
changes within a run. A new run chooses it: one rank by the free memory; several ranks by all memory of a device less
the weights, because each finds the same on devices of the same size. If a rank hasn't so much memory free, the
run is refused with the option to set.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, final

from es_llm.checkpoint.identity import read_journal
from es_llm.checkpoint.run_directory import RunDirectory
from es_llm.checkpoint.snapshot import is_snapshot
from es_llm.config import ESConfig
from es_llm.errors import ConfigError
from es_llm.evaluation.work import EvaluationSets
from es_llm.model.device import free_memory, ranks_sharing, total_memory
from es_llm.rollout.engine import Sampling, SmallBatches
from es_llm.rollout.memory import power_below
from es_llm.units.run_state import RunState, training_sampling

logger = logging.getLogger(__name__)

_SHARE: Final = 0.8
"""Largest share of a device's free memory for decoding. The rest is for what fragments and for other programs."""


@final
@dataclass(frozen=True)
class _Unit:
    """The rows of one `evaluate`: `members` with noise (0: the model without noise) x `prompts`."""

    members: int
    prompts: int
    sampling: Sampling | None

    @property
    def rows(self) -> int:
        return max(1, self.members) * self.prompts


def fit_batches(run: RunState, config: ESConfig, sets: EvaluationSets | None, *, training: bool) -> None:
    """Set `rows_per_batch` of the run, and limit the batches of its engine, before any work.

    Args:
        config: as the user gave it, with the directory of the run to resume.
        sets: what is evaluated.
        training: the run trains too.

    Raises:
        ConfigError: the option is set, or the run is resumed, and its batches don't fit into the memory; one of several
            ranks hasn't so much memory free; one row doesn't fit; or the engine has no batches of a given size.
    """
    engine, resumed = run.engine, _journal(config)
    rows = config.rows_per_batch if config.rows_per_batch is not None or resumed is None else _saved_rows(resumed)
    if not isinstance(engine, SmallBatches):
        if rows is not None:
            raise ConfigError(
                f"`rows_per_batch` must be none with the engine {config.engine!r}, which has no `limit_rows` and "
                f"`bytes_needed`, got {rows}"
            )
        return
    units = list(_units(run, config, sets, training=training))
    most = max((unit.rows for unit in units), default=1)

    def need(count: int) -> int:
        sizes = [engine.bytes_needed(unit.members, unit.prompts, count, unit.sampling) for unit in units]
        return max((size for size in sizes if size is not None), default=0)

    count = min(most, rows or most)
    may_choose = config.rows_per_batch is None and resumed is None
    for room in _rooms(run, may_choose=may_choose):
        if need(count) <= room.bytes:
            continue
        fitting = next((fewer for fewer in _halves(count) if need(fewer) <= room.bytes), None)
        fact = f"decoding {count} completion(s) at a time needs up to {_shown(need(count))}, and {room}"
        if fitting is None or not room.may_choose:
            raise ConfigError(f"{fact}; {_remedy(fitting, is_resumed=resumed is not None)}")
        if run.team.rank == 0:
            logger.warning("%s; the run uses `--rows_per_batch %d`", fact, fitting)
        count = rows = fitting
    engine.limit_rows(rows)
    run.config = replace(run.config, rows_per_batch=rows)


@final
@dataclass(frozen=True)
class _Room:
    """Memory for decoding on one rank. `may_choose`: fewer rows are chosen if they don't fit."""

    bytes: int
    fact: str
    may_choose: bool

    def __str__(self) -> str:
        return f"{_shown(self.bytes)} {self.fact}"


def _rooms(run: RunState, *, may_choose: bool) -> Iterator[_Room]:
    """The memory that all ranks have, if several ranks choose, and what is free on this one."""
    device, ranks = run.weights.device, run.team.size
    sharing = ranks_sharing(device, run.config.device, run.team.local_size)
    where = f"on {device}" if sharing == 1 else f"on {device} for each of {sharing} ranks"
    if may_choose and ranks > 1:
        room = int(_SHARE * total_memory(device)) // sharing - run.weights.bytes_on(device)
        yield _Room(max(0, room), f"are left for it beside the weights {where}", may_choose=True)
    free = int(_SHARE * free_memory(device)) // sharing
    yield _Room(free, f"are free for it {where}", may_choose=may_choose and ranks == 1)


def _remedy(fitting: int | None, *, is_resumed: bool) -> str:
    if is_resumed:
        return "the number is part of the run: resume it where more memory is free"
    if fitting is None:
        return "lower `--max_completion_length`, or `--members_per_unit` with the engine batched"
    return f"set `--rows_per_batch {fitting}`"


def _units(run: RunState, config: ESConfig, sets: EvaluationSets | None, *, training: bool) -> Iterator[_Unit]:
    """The largest unit of each kind."""
    if training:
        members = min(run.engine.members_per_unit, config.population_size)
        prompts = min(config.prompts_per_unit, run.prompts.per_iteration * config.num_generations)
        members += run.joins_reference and config.reference_steps > 0
        yield _Unit(members, prompts, training_sampling(config))
    for rows in {} if sets is None else sets.sets.values():
        yield _Unit(0, min(config.prompts_per_unit, len(rows)), None)
        if config.eval_num_samples > 0:
            prompts = min(config.prompts_per_unit, len(rows) * config.eval_num_samples)
            yield _Unit(0, prompts, Sampling(temperature=config.eval_temperature))


def _journal(config: ESConfig) -> Path | None:
    """The journal of the run to resume, if this host sees it."""
    if config.resume_from_checkpoint is None:
        return None
    path = Path(config.resume_from_checkpoint)
    journal = RunDirectory(path.parent if is_snapshot(path) else path).journal
    return journal if journal.exists() else None


def _saved_rows(journal: Path) -> int | None:
    """`rows_per_batch` of a run: it may have been chosen at its start."""
    _, header = read_journal(str(journal))
    rows: int | None = header["identity"]["config"].get("rows_per_batch")
    return rows


def _halves(most: int) -> Iterator[int]:
    """The powers of two below a number, the largest first."""
    while most > 1:
        most = power_below(most)
        yield most


def _shown(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
