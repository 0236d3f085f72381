"""The weights of a run on one rank: loaded and saved, compared between ranks, and rebuilt from the journal.

A run continues without a snapshot that can't be written: its journal is complete.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from es_llm.callbacks import Callbacks
from es_llm.checkpoint import events
from es_llm.checkpoint.export import export_model
from es_llm.checkpoint.replay import last_digest, require_digest
from es_llm.checkpoint.run_directory import RunDirectory
from es_llm.checkpoint.snapshot import SnapshotIdentity, Snapshots
from es_llm.errors import DivergenceError, LeftOutError, ModelError
from es_llm.evaluation.history import EvaluationHistory
from es_llm.team import Team
from es_llm.trainer.assembly.model import TrainedModel
from es_llm.trainer.loop.run_log import RunLog
from es_llm.units.run_state import RunState

logger = logging.getLogger(__name__)


def export(run: RunState, model: TrainedModel, directory: Path) -> None:
    """Write the trained model in its live type."""
    run.weights.write_module()
    export_model(directory, model.module, model.tokenizer)


class WeightStore:
    """Loads, saves, compares and rebuilds the weights of a run in one call of `train`."""

    def __init__(self, run: RunState, model: TrainedModel, callbacks: Callbacks, log: RunLog) -> None:
        self._run, self._model, self._callbacks, self._log = run, model, callbacks, log
        self._progress = log.progress
        self._saved = 0

    def start(self) -> None:
        """Load the newest snapshot that fits the journal's records and digests, if there is one."""
        files = self._log.leading
        found = files.saved[: self._progress.resumed_at]
        snapshots = Snapshots(files.directory.path)
        self._progress.snapshot = snapshots.restore(self._run.weights, found, files.digests, set_aside=True)

    def start_like(self, directory: RunDirectory, snapshot: SnapshotIdentity) -> None:
        """Load the snapshot that the leader started from. If this host doesn't see it, the weights stay the base's."""
        try:
            Snapshots(directory.path).restore_exactly(self._run.weights, snapshot)
        except ModelError as error:
            logger.info("rank %d replays the whole journal: %s", self._run.team.rank, error)
        else:
            self._progress.snapshot = snapshot

    def save_if_due(self, history: EvaluationHistory, *, last: bool = False) -> None:
        """Save a snapshot after the records so far, if one is due: every `save_steps`, at the end, of the best
        evaluation, or because a callback asks for one. `last`: no iteration follows."""
        config, control, best = self._run.config, self._callbacks.control, history.best
        step, steps = self._run.population.iteration, config.save_steps
        regular = steps > 0 and (last or step % steps == 0)
        if not (regular or control.should_save or (best is not None and best.iteration == step)):
            return
        control.should_save = False
        if step <= max(self._saved, self._progress.started_at):
            return
        self._saved = step
        snapshots, limit = Snapshots(self._log.leading.directory.path), config.save_total_limit
        try:
            snapshots.write(self._run.weights, self._model.module, self._model.tokenizer, self._progress.records)
            if limit is not None:
                snapshots.keep(step, limit, None if best is None else best.iteration)
        except ModelError as error:
            self._log.happened("snapshot failed", f"no snapshot: {error}", why=str(error))
        else:
            self._log.append_event(events.happened("snapshot", step))
            self._callbacks.call("on_save")

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
        digest of the last iteration at which ranks compare digests: `iteration`, or a later one.

        Raises:
            LeftOutError: there is no snapshot, and the model wasn't loaded by name.
        """
        assert self._log.directory is not None
        weights, records, rank = self._run.weights, self._progress.records, team.rank
        later = range(iteration + 1, len(records))
        last = max((known for known in later if self._is_compared(known)), default=iteration)
        snapshot = Snapshots(self._log.directory.path).restore(weights, records[: last + 1], self._log.digests)
        if snapshot is None:
            if not self._model.is_named:
                raise LeftOutError(
                    f"the weights of rank {rank} are wrong and can't be rebuilt: there is no snapshot, and the model "
                    "wasn't loaded by name"
                )
            weights.reset(self._model.load_base())
        first = 0 if snapshot is None else snapshot.step
        logger.warning(
            "rank %d rebuilds its weights from iteration %d and %d records", rank, first, len(records) - first
        )
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
