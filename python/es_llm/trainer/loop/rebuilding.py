"""Digests: ranks compare their weights, and a rank with wrong weights rebuilds them from the journal."""

from __future__ import annotations

from collections.abc import Sequence

from es_llm.checkpoint import events
from es_llm.checkpoint.replay import last_digest, require_digest
from es_llm.errors import DivergenceError
from es_llm.team import Team
from es_llm.trainer.loop.progress import Progress
from es_llm.trainer.loop.run_log import RunLog
from es_llm.trainer.loop.weight_store import WeightStore
from es_llm.units.run_state import RunState


class Rebuilding:
    """Compares and rebuilds the weights of one rank."""

    def __init__(self, run: RunState, store: WeightStore, log: RunLog, progress: Progress) -> None:
        self._run, self._store, self._log, self._progress = run, store, log, progress

    def applied(self, team: Team, iteration: int) -> None:
        """A record was applied: check the weights against the journal, and report their digest if ranks compare it.

        Raises:
            DivergenceError: replayed weights don't have the digest that the journal holds.
        """
        resumed_at, digests = self._progress.resumed_at, self._log.digests
        replayed = self._progress.started_at - 1 <= iteration < resumed_at
        if replayed and iteration == last_digest(digests, resumed_at):
            require_digest(self._run.weights, iteration, digests)
        if self._is_compared(iteration):
            team.digest(iteration, self._run.weights.digest())

    def diverged(self, ranks: Sequence[int], iteration: int, *, hopeless: bool) -> None:
        """Ranks have other weights than the majority: they rebuild them, or the run stops.

        Raises:
            DivergenceError: the run stops.
        """
        message = f"after step {iteration + 1} rank(s) {list(ranks)} hold other weights than the majority"
        if not hopeless:
            agreed = last_digest(self._log.leading.digests, iteration)
            first = 1 if agreed is None else agreed + 2
            message += f"; rewards of steps {first} to {iteration + 1} may come from them"
        if hopeless or self._run.config.on_divergence == "stop":
            again = ", also after they were rebuilt" if hopeless else ""
            raise DivergenceError(f"{message}{again}; the journal is right: resume from it")
        self._log.happened(events.diverged(self._log.step, ranks), f"{message}; they are rebuilt from the journal")

    def rebuild(self, team: Team, iteration: int) -> None:
        """Rebuild this rank's weights, then report the digest of the last iteration at which ranks compare digests:
        `iteration`, or a later one."""
        assert self._log.directory is not None
        records = self._progress.records
        later = range(iteration + 1, len(records))
        last = max((known for known in later if self._is_compared(known)), default=iteration)
        digest = self._store.rebuild(
            self._log.directory.path, records, self._log.digests, compared=last + 1, alive=team.alive
        )
        team.digest(last, digest)

    def _is_compared(self, iteration: int) -> bool:
        steps = self._run.config.digest_steps
        return steps > 0 and (iteration + 1) % steps == 0 and iteration + 1 >= self._progress.resumed_at
