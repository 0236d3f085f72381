"""The weights of a run: loaded and saved, compared between ranks, and rebuilt from the journal.

A run continues without a snapshot that can't be written: its journal is complete.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from es_llm._core import Record
from es_llm.callbacks import Callbacks
from es_llm.checkpoint import events
from es_llm.checkpoint.export import export_model
from es_llm.checkpoint.replay import last_digest, require_digest
from es_llm.checkpoint.snapshot import SnapshotIdentity, Snapshots
from es_llm.errors import DivergenceError, LeftOutError, ModelError
from es_llm.team import Team
from es_llm.trainer.loop.evaluations import Evaluations
from es_llm.trainer.loop.run_log import Progress, RunLog
from es_llm.units.run_state import RunState

logger = logging.getLogger(__name__)


class WeightStore:
    """Loads and saves the weights of a run."""

    def __init__(self, run: RunState, model: Any, tokenizer: Any, load_base: Callable[[], Any] | None) -> None:
        self._run, self._model, self._tokenizer, self._load_base = run, model, tokenizer, load_base

    def export(self, directory: Path) -> None:
        """Write the trained model in its live type."""
        self._run.weights.write_module()
        export_model(directory, self._model, self._tokenizer)

    def save(self, directory: Path, records: Sequence[Record], limit: int | None, kept: int | None = None) -> None:
        """Write a snapshot; then delete all but the newest `limit` (None: keep all) and that of the step `kept`."""
        snapshots = Snapshots(directory)
        snapshots.write(self._run.weights, self._model, self._tokenizer, records)
        if limit is not None:
            snapshots.keep(len(records), limit, kept)

    def start(self, directory: Path, records: Sequence[Record], digests: Mapping[int, int]) -> SnapshotIdentity | None:
        """Load the newest snapshot that fits the journal's records and digests; None: the weights stay the base's."""
        return Snapshots(directory).restore(self._run.weights, records, digests, set_aside=True)

    def start_like(self, directory: Path, snapshot: SnapshotIdentity) -> bool:
        """Load the snapshot that the leader started from. False if this host doesn't see it: the weights stay the
        base's."""
        try:
            Snapshots(directory).restore_exactly(self._run.weights, snapshot)
        except ModelError as error:
            logger.info("rank %d replays the whole journal: %s", self._run.team.rank, error)
            return False
        return True

    def reset(self) -> None:
        """Load the base model's weights again.

        Raises:
            LeftOutError: the model wasn't loaded by name.
        """
        if self._load_base is None:
            raise LeftOutError(
                f"the weights of rank {self._run.team.rank} are wrong and can't be rebuilt: there is no snapshot, and "
                "the model wasn't loaded by name"
            )
        self._run.weights.reset(self._load_base())


class SnapshotSchedule:
    """Saves snapshots every `save_steps`, at the end, of the best evaluation, and when a callback asks for one."""

    def __init__(
        self, run: RunState, callbacks: Callbacks, store: WeightStore, log: RunLog, evaluations: Evaluations
    ) -> None:
        self._run, self._callbacks, self._store = run, callbacks, store
        self._log, self._evaluations = log, evaluations
        self._saved = 0

    def save_if_due(self, progress: Progress, *, last: bool = False) -> None:
        """Save a snapshot after the records so far, if one is due. `last`: no iteration follows."""
        config, control, best = self._run.config, self._callbacks.control, self._evaluations.history.best
        step, steps = self._run.population.iteration, config.save_steps
        regular = steps > 0 and (last or step % steps == 0)
        if not (regular or control.should_save or (best is not None and best.step == step)):
            return
        control.should_save = False
        if step <= max(self._saved, progress.started_at):
            return
        self._saved = step
        directory, kept = self._log.leading.directory.path, None if best is None else best.step
        try:
            self._store.save(directory, progress.records, config.save_total_limit, kept)
        except ModelError as error:
            self._log.happened("snapshot failed", f"no snapshot: {error}", why=str(error))
        else:
            self._log.append_event(events.happened("snapshot", step))
            self._callbacks.call("on_save")


class Rebuilding:
    """Compares and rebuilds the weights of one rank."""

    def __init__(self, run: RunState, store: WeightStore, log: RunLog, progress: Progress) -> None:
        self._run, self._store, self._log, self._progress = run, store, log, progress

    def applied(self, team: Team, iteration: int) -> None:
        """A record was applied: check the weights against the journal, and report their digest if ranks compare it."""
        resumed_at, digests = self._progress.resumed_at, self._log.digests
        replayed = self._progress.started_at - 1 <= iteration < resumed_at
        if replayed and iteration == last_digest(digests, resumed_at):
            require_digest(self._run.weights, iteration, digests)
        if self._is_compared(iteration):
            team.digest(iteration, self._run.weights.digest())

    def diverged(self, ranks: Sequence[int], iteration: int, *, again: bool) -> None:
        """Ranks have other weights than the majority: they rebuild them, or the run stops."""
        message = f"after iteration {iteration + 1} rank(s) {list(ranks)} hold other weights than the majority"
        if not again:
            agreed = last_digest(self._log.leading.digests, iteration)
            first = 1 if agreed is None else agreed + 2
            message += f"; rewards of iterations {first} to {iteration + 1} may come from them"
        if again or self._run.config.on_divergence == "stop":
            still = ", also after they were rebuilt" if again else ""
            raise DivergenceError(f"{message}{still}; the journal is right: resume from it")
        self._log.happened("diverged", f"{message}; they are rebuilt from the journal", ranks=list(ranks))

    def rebuild(self, team: Team, iteration: int) -> None:
        """Rebuild this rank's weights from a snapshot or the base model, and the records after it. Then report the
        digest of the last iteration at which ranks compare digests: `iteration`, or a later one."""
        assert self._log.directory is not None
        weights, records = self._run.weights, self._progress.records
        later = range(iteration + 1, len(records))
        last = max((known for known in later if self._is_compared(known)), default=iteration)
        snapshot = Snapshots(self._log.directory.path).restore(weights, records[: last + 1], self._log.digests)
        if snapshot is None:
            self._store.reset()
        first, rank = 0 if snapshot is None else snapshot.step, team.rank
        logger.warning("rank %d rebuilds its weights from step %d and %d records", rank, first, len(records) - first)
        digest = weights.digest()
        for done, record in enumerate(records[first:], first):
            weights.update(record)
            team.alive()
            if done == last:
                digest = weights.digest()
        team.digest(last, digest)

    def _is_compared(self, iteration: int) -> bool:
        steps = self._run.config.digest_steps
        return steps > 0 and (iteration + 1) % steps == 0 and iteration + 1 >= self._progress.resumed_at
