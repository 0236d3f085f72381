"""What one rank writes during a call of `train`: journal, metrics, completions and warnings, also for callbacks."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from es_llm._core import Record
from es_llm.callbacks import Callbacks
from es_llm.checkpoint import events
from es_llm.checkpoint.events import Event
from es_llm.checkpoint.metrics_log import evaluation_metrics
from es_llm.checkpoint.opening import RunOpener
from es_llm.checkpoint.run_directory import RunDirectory
from es_llm.checkpoint.run_files import RunFiles, taken_from
from es_llm.checkpoint.snapshot import SnapshotIdentity
from es_llm.errors import JournalError, JournalTakenError, LeftOutError
from es_llm.trainer.learning.diagnosis import Finding
from es_llm.units.completion_log import CompletionLog
from es_llm.units.run_state import RunState

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Progress:
    """How far a call of `train` has come on one rank.

    records: all records that this rank applied.
    resumed_at: number of iterations that the journal held when the call began.
    snapshot: what this rank's weights began from; None: the base model.
    begun: the callbacks know that the training has begun.
    halting: a rank was asked to end soon.
    """

    records: list[Record] = field(default_factory=list)
    resumed_at: int = 0
    snapshot: SnapshotIdentity | None = None
    begun: bool = False
    halting: bool = False

    @property
    def started_at(self) -> int:
        """Number of iterations before the weights that this rank began from."""
        return 0 if self.snapshot is None else self.snapshot.step


class RunLog:
    """Writes the files of a run, if this rank leads or keeps a copy of the journal. `progress`: how far the call is."""

    def __init__(self, run: RunState, callbacks: Callbacks, opener: RunOpener, options: dict[str, Any]) -> None:
        self._run, self._callbacks, self._opener, self._options = run, callbacks, opener, options
        self._files: RunFiles | None = None
        self.directory: RunDirectory | None = None
        self.completions = CompletionLog(run.team.rank) if run.config.log_completions else None
        self.progress = Progress()
        self._logged = 0
        self.start_clock()
        self._traffic = run.team.traffic

    def open(self) -> RunFiles:
        """Open the run's directory as its leader; before that, close this rank's copy of the journal."""
        self.leave()
        self._files = self._opener.take_over(self.directory) if self.directory else self._opener.open()
        self.directory = self._files.directory
        return self._files

    def enter(self, directory: RunDirectory) -> None:
        """This rank knows the run's directory: tell the callbacks that the training begins, if they don't know."""
        self.directory, progress = directory, self.progress
        if progress.begun:
            return
        progress.begun = True
        self._callbacks.control.should_training_stop = False
        self._callbacks.begin_run(directory.path)
        self._callbacks.state.global_step = max(progress.resumed_at, self._run.population.iteration)
        self._callbacks.call("on_train_begin")

    def begin(self) -> None:
        """Write the leader's files beside the journal. Iterations that it holds already aren't logged again."""
        self._logged = len(self.leading.saved)
        self.leading.begin(self._options, self._logged)
        self.start_clock()
        self._traffic = self._run.team.traffic

    def open_copy(self, directory: RunDirectory, records: Sequence[Record]) -> None:
        """Keep a copy of the journal, if this is the first rank of a host that doesn't see the leader's directory."""
        if self._files is None and self._run.team.local_rank == 0:
            known = [self._run.population.pack(record) for record in records]
            self._files = self._opener.copy(directory, known)

    @property
    def leading(self) -> RunFiles:
        """The leader's files."""
        if self._files is None:
            raise JournalTakenError("the journal that this rank wrote was deleted, or taken over by another leader")
        return self._files

    @property
    def digests(self) -> dict[int, int]:
        """Iteration -> digest, of this rank's journal or copy; empty without one."""
        return self._files.digests if self._files is not None else {}

    def append_record(self, record: Record) -> None:
        """Write a record to this rank's journal or copy, if there is one. An error of the disk ends a copy."""
        if self._files is None:
            return
        try:
            self._files.append_record(record)
        except JournalError as error:
            if self._run.team.leads:
                raise
            logger.error("this host keeps no copy of the journal any more: %s", error)
            self.leave()

    def append_digest(self, iteration: int, digest: int) -> None:
        """Write a digest that all ranks agree on."""
        if self._files is not None:
            self._files.append_digest(iteration, digest)

    def append_event(self, event: Event) -> None:
        """Write an event to this rank's journal or copy, if there is one."""
        if self._files is not None:
            self._files.append_event(event)

    def leave(self) -> None:
        """Close the files; another rank of this job writes on."""
        if self._files is not None:
            self._files.leave()
            self._files = None

    def close(self) -> None:
        """Close the files at the end of the call."""
        if self._files is not None:
            self._files.close()

    def taken_over(self, error: JournalTakenError) -> JournalTakenError | LeftOutError:
        """The error, with what became of the run if other ranks took it over."""
        team = self._run.team
        return error if self.directory is None or team.size == 1 else taken_from(team.rank, self.directory, error)

    def write_completions(self, name: str) -> None:
        """Write the completions that this rank collected, under this name."""
        if self.completions is not None and self.directory is not None:
            self.completions.write(self.directory.path, name)

    @property
    def step(self) -> int:
        """The number of iterations done, as events have it."""
        return max(self._run.population.iteration, len(self.leading.saved))

    def happened(self, kind: str, message: str, **more: Any) -> None:
        """Write an event as the leader, and its message as a warning."""
        self.leading.append_event(events.happened(kind, self.step, **more))
        logger.warning("iteration %d: %s", self.step, message)

    def found(self, findings: Sequence[Finding]) -> None:
        """Write why this run can't learn."""
        for finding in findings:
            self.happened(finding.reason, finding.message, why=finding.message)

    def start_clock(self) -> None:
        """An iteration or evaluation begins."""
        self._clock = time.perf_counter()

    def is_logged(self, iteration: int) -> bool:
        """True if another leader logged the iteration, or this one did from its record."""
        return iteration < self._logged

    def iteration(self, metrics: dict[str, Any], waited_s: float) -> None:
        """Log the metrics of an iteration, with its time and traffic; every `logging_steps` for callbacks too."""
        seconds, team = time.perf_counter() - self._clock, self._run.team
        before, self._traffic = self._traffic, team.traffic
        sent, received = (now - then for now, then in zip(self._traffic, before, strict=True))
        metrics["rewards/wait_ratio"] = waited_s / (seconds * team.size)
        metrics |= {"seconds": seconds, "bytes_sent": sent, "bytes_received": received}
        self.leading.log(metrics)
        control = self._callbacks.control
        if metrics["step"] % self._run.config.logging_steps == 0 or control.should_log:
            control.should_log = False
            self._report({name: value for name, value in metrics.items() if name != "step"})

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        """Log the metrics of an evaluation, for callbacks too."""
        logs, seconds = evaluation_metrics(metrics), time.perf_counter() - self._clock
        self.leading.log({"step": step, **logs, "eval_seconds": seconds})
        self._report(logs)
        self._callbacks.call("on_evaluate", metrics=logs)

    def _report(self, logs: dict[str, Any]) -> None:
        self._callbacks.state.log_history.append({**logs, "step": self._callbacks.state.global_step})
        self._callbacks.call("on_log", logs=logs)
