"""Where a rank's weights come from, and where they go: base model, snapshots and records; exports and snapshots."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from es_llm._core import Record
from es_llm.checkpoint.export import export_model
from es_llm.checkpoint.snapshot import Mark, Snapshots
from es_llm.errors import LeftOutError, ModelError
from es_llm.units.run_state import RunState

logger = logging.getLogger(__name__)


class Origin:
    """Makes and saves the weights of a run.

    Args:
        run: whose weights.
        model: the module under training.
        tokenizer: is saved with it.
        load_base: loads the base model anew; None: it was given as a module, and is nowhere else.
    """

    def __init__(self, run: RunState, model: Any, tokenizer: Any, load_base: Callable[[], Any] | None) -> None:
        self._run, self._model, self._tokenizer, self._load_base = run, model, tokenizer, load_base

    def export(self, directory: Path) -> None:
        """Write the trained model in its live type.

        Raises:
            ModelError: see `export_model`.
        """
        self._run.weights.unperturb()
        self._run.engine.weights_changed()
        export_model(directory, self._model, self._tokenizer)

    def save(self, directory: Path, records: Sequence[Record], limit: int | None, kept: int | None = None) -> None:
        """Write a snapshot, and keep the newest `limit` (None: all), and that of the step `kept`.

        Raises:
            ModelError: the disk refuses; older snapshots are still there.
        """
        snapshots = Snapshots(directory)
        snapshots.write(self._run.weights, self._model, self._tokenizer, records)
        if limit is not None:
            snapshots.keep(len(records), limit, kept)

    def start(self, directory: Path, records: Sequence[Record], digests: Mapping[int, int]) -> Mark | None:
        """Base weights -> those of the newest snapshot that fits the journal's records and digests, if there is one."""
        snapshots = Snapshots(directory)
        snapshots.tidy()
        return snapshots.restore(self._run.weights, records, digests, set_aside=True)

    def start_like(self, directory: Path, mark: Mark) -> bool:
        """Base weights -> those of the snapshot that the leader started from, if this host sees it."""
        try:
            Snapshots(directory).restore_exactly(self._run.weights, mark)
        except ModelError as error:
            logger.info("rank %d replays the whole journal: %s", self._run.team.rank, error)
            return False
        return True

    def rebuild(
        self,
        directory: Path,
        records: Sequence[Record],
        digests: Mapping[int, int],
        *,
        compared: int,
        alive: Callable[[], None],
    ) -> int:
        """Make the weights anew: a snapshot or the base model, and the records after it; `alive` is called after each.
        Returns the digest that they had after the first `compared` of the records.

        Raises:
            LeftOutError: there is neither.
        """
        weights, rank = self._run.weights, self._run.team.rank
        mark = Snapshots(directory).restore(weights, records[:compared], digests)
        if mark is None:
            if self._load_base is None:
                raise LeftOutError(
                    f"the weights of rank {rank} are wrong and can't be healed: there is no snapshot, and the model "
                    "wasn't loaded by name"
                )
            weights.reset(self._load_base())
        first = mark.step if mark is not None else 0
        logger.warning("rank %d makes its weights anew from step %d and %d records", rank, first, len(records) - first)

        def move(part: Sequence[Record]) -> None:
            for record in part:
                weights.update(record, run_seed=self._run.population.run_seed)
                alive()

        move(records[first:compared])
        digest = weights.digest()
        move(records[compared:])
        return digest
