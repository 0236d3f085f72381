"""Loads and saves the weights of a run: base model, snapshots, records; exports."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from es_llm._core import Record
from es_llm.checkpoint.export import export_model
from es_llm.checkpoint.snapshot import SnapshotIdentity, Snapshots
from es_llm.errors import LeftOutError, ModelError
from es_llm.units.run_state import RunState

logger = logging.getLogger(__name__)


class WeightStore:
    """Loads and saves the weights of a run.

    Args:
        run: whose weights.
        model: the module under training.
        tokenizer: saved beside it.
        load_base: loads the base model again; None: it was given as a module, so there is nothing to load.
    """

    def __init__(self, run: RunState, model: Any, tokenizer: Any, load_base: Callable[[], Any] | None) -> None:
        self._run, self._model, self._tokenizer, self._load_base = run, model, tokenizer, load_base

    def export(self, directory: Path) -> None:
        """Write the trained model in its live type.

        Raises:
            ModelError: see `export_model`.
        """
        self._run.weights.write_module()
        export_model(directory, self._model, self._tokenizer)

    def save(self, directory: Path, records: Sequence[Record], limit: int | None, kept: int | None = None) -> None:
        """Write a snapshot; then delete all but the newest `limit` (None: keep all) and that of the step `kept`.

        Raises:
            ModelError: the disk refuses; older snapshots are still there.
        """
        snapshots = Snapshots(directory)
        snapshots.write(self._run.weights, self._model, self._tokenizer, records)
        if limit is not None:
            snapshots.keep(len(records), limit, kept)

    def start(self, directory: Path, records: Sequence[Record], digests: Mapping[int, int]) -> SnapshotIdentity | None:
        """Load the newest snapshot that fits the journal's records and digests; None: the weights stay the base's."""
        snapshots = Snapshots(directory)
        snapshots.tidy()
        return snapshots.restore(self._run.weights, records, digests, set_aside=True)

    def start_like(self, directory: Path, snapshot: SnapshotIdentity) -> bool:
        """Load the snapshot that the leader started from. False if this host doesn't see it: the weights stay the
        base's."""
        try:
            Snapshots(directory).restore_exactly(self._run.weights, snapshot)
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
        """Rebuild the weights from a snapshot or the base model, and the records after it.

        Args:
            directory: of the run.
            records: all that were applied so far.
            digests: iteration -> digest, of the journal.
            compared: after how many records to take the digest that is returned.
            alive: called after each record.

        Raises:
            LeftOutError: there is neither a snapshot nor a base model to load.
        """
        weights, rank = self._run.weights, self._run.team.rank
        snapshot = Snapshots(directory).restore(weights, records[:compared], digests)
        if snapshot is None:
            if self._load_base is None:
                raise LeftOutError(
                    f"the weights of rank {rank} are wrong and can't be rebuilt: there is no snapshot, and the model "
                    "wasn't loaded by name"
                )
            weights.reset(self._load_base())
        first = snapshot.step if snapshot is not None else 0
        logger.warning("rank %d rebuilds its weights from step %d and %d records", rank, first, len(records) - first)
        digest = weights.digest() if first == compared else None
        for done, record in enumerate(records[first:], first + 1):
            weights.update(record, run_seed=self._run.population.run_seed)
            alive()
            if done == compared:
                digest = weights.digest()
        assert digest is not None, (first, compared, len(records))
        return digest
