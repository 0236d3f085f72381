"""One call of `train` as a program of the team: replay saved records, evaluate, iterate, complete the directory."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from es_llm._core import Record, UpdateReport
from es_llm.callbacks import Callbacks
from es_llm.checkpoint import events
from es_llm.checkpoint.events import Event
from es_llm.checkpoint.lock import is_abandoned
from es_llm.checkpoint.run_directory import RunDirectory, write_json
from es_llm.checkpoint.run_files import RunFiles, other_records
from es_llm.checkpoint.snapshot import SnapshotIdentity
from es_llm.errors import EsError
from es_llm.evaluation.work import EvaluationSets
from es_llm.team import Loss, Outcome, RecordProgram, Round, RoundKind, Table, Team
from es_llm.trainer.assembly.model import TrainedModel
from es_llm.trainer.learning.diagnosis import Diagnosis, Figures, failures_of
from es_llm.trainer.loop.evaluations import Evaluations
from es_llm.trainer.loop.iteration import Iteration, iteration_metrics
from es_llm.trainer.loop.output import TrainOutput, result_of
from es_llm.trainer.loop.run_log import RunLog
from es_llm.trainer.loop.weight_store import WeightStore, export
from es_llm.units.run_state import RunState

logger = logging.getLogger(__name__)


class Session(RecordProgram):
    """Trains a run from the end of its journal to `max_steps`. Passes the steps of the team to the parts of the run."""

    def __init__(
        self, run: RunState, model: TrainedModel, callbacks: Callbacks, log: RunLog, data: EvaluationSets | None
    ) -> None:
        self.tolerant = run.config.on_rank_error == "lost"
        self._run, self._model, self._callbacks, self._log = run, model, callbacks, log
        self._progress = log.progress
        self._evaluations = Evaluations(run, data, log)
        self._weights = WeightStore(run, model, callbacks, log)
        self._diagnosis = Diagnosis(run.config, why_failed=lambda: failures_of(run.rewards))
        self._iteration: Iteration | None = None
        self._figures: dict[int, Figures] = {}

    def lead(self, team: Team) -> None:
        """Open the run's directory, and send the other ranks its path and content."""
        files, progress = self._log.open(), self._progress
        known = team.records()
        lacking = files.agree_with(known)
        self._read(files.events)
        for event in self._evaluations.history.missing(files.events):
            files.append_event(event)
        if not progress.begun:
            self._resume(files, f"{team.mailbox.job} {team.calls}")
        self._log.begin()
        self._callbacks.state.is_world_process_zero = self._callbacks.state.is_local_process_zero = True
        snapshot = None if progress.snapshot is None else asdict(progress.snapshot)
        start = {"directory": str(files.directory.path), "resumed_at": progress.resumed_at, "snapshot": snapshot}
        team.welcome(json.dumps(start).encode())
        if not team.restore(len(known), lacking):
            raise other_records(files.directory)
        self._log.enter(files.directory)
        self.back(team.rank)

    def _resume(self, files: RunFiles, call: str) -> None:
        """Find the iteration from which this call resumed. The first leader of the call journaled it. That was this
        rank, or another rank that led before and may have added records since."""
        progress = self._progress
        start = next((event for event in files.events if events.is_start(event, call)), None)
        progress.resumed_at = len(files.saved) if start is None else start["step"]
        if self._run.population.iteration == 0:
            self._weights.start()
        if start is None:
            kind, ranks = "resumed" if progress.resumed_at else "started", self._run.team.size
            files.append_event(events.happened(kind, progress.resumed_at, ranks=ranks, call=call))

    def abandoned(self, team: Team) -> bool:
        """True if the journal exists and no unreachable process may still own it."""
        directory = self._log.directory
        if directory is None or not directory.journal.exists():
            return False
        return is_abandoned(directory.path, team.mailbox.job, team.losses.keys())

    def follow(self) -> None:
        """A lower rank takes part again, and leads."""
        self._log.leave()
        self._callbacks.state.is_world_process_zero = self._callbacks.state.is_local_process_zero = False

    def welcome(self, payload: bytes) -> None:
        """Join the call of a leader: start from the weights that it started from."""
        start, progress = json.loads(payload), self._progress
        directory = RunDirectory(Path(start["directory"]))
        progress.resumed_at = start["resumed_at"]
        self._log.open_copy(directory, progress.records)
        if not progress.begun and start["snapshot"] and not progress.records:
            self._weights.start_like(directory, SnapshotIdentity(**start["snapshot"]))
        self._log.enter(directory)

    def advance(self, team: Team) -> None:
        """Begin the next evaluation or iteration, or end the call."""
        step, control = self._run.population.iteration, self._callbacks.control
        stopping = (
            step >= self._run.config.max_steps or self._evaluations.history.hopeless or control.should_training_stop
        )
        if self._progress.halting:
            self._finish(team)
        elif self._evaluations.due(step, last=stopping, asked=control.should_evaluate):
            control.should_evaluate = False
            self._iteration = None
            self._evaluations.begin(team)
        elif not stopping:
            self._callbacks.call("on_step_begin")
            self._log.start_clock()
            team.begin(Round(RoundKind.ITERATION, step), self._current().costs)
            self._weights.save_if_due(self._evaluations.history)  # while the other ranks evaluate
        else:
            self._weights.save_if_due(self._evaluations.history, last=True)
            self._finish(team)

    def evaluate(self, round_: Round, unit: int) -> Outcome:
        """The results of one unit of an iteration or of an evaluation."""
        if round_.kind == RoundKind.ITERATION:
            self._evaluations.forget()
            return self._current().evaluate(unit)
        self._iteration = None
        return self._evaluations.evaluate(unit)

    def complete(self, team: Team, round_: Round, table: Table) -> None:
        """Leader: make an evaluation of the results of all units; or a record, on the disk before anything changes."""
        if round_.kind == RoundKind.ITERATION:
            self._publish(team, round_, table)
            return
        self._evaluations.complete(team, table)
        best = self._evaluations.history.best
        if best is not None:  # after the callbacks, which compare with the older value
            self._callbacks.state.best_metric, self._callbacks.state.best_global_step = best.value, best.iteration

    def _publish(self, team: Team, round_: Round, table: Table) -> None:
        iteration, files = self._current(), self._log.leading
        assert round_.iteration == iteration.number, (round_, iteration.number)
        record, figures = iteration.record(table)
        self._figures[iteration.number] = figures
        start = time.perf_counter()
        files.append_record(record)
        self._log.found(self._diagnosis.observe(figures))
        if figures.failures:
            examples = {name: failure.reason[-300:] for name, failure in self._run.rewards.examples.items()}
            failed = {"count": figures.failures, "examples": examples}
            files.append_event(events.happened("failures", record.iteration + 1, **failed))
        iteration.seconds["journal"] = time.perf_counter() - start
        team.publish(record.iteration, self._run.population.pack(record))

    def apply(self, team: Team, iteration: int, payload: bytes) -> None:
        """Move the weights by a record, of this iteration or of a journal."""
        run, progress, start = self._run, self._progress, time.perf_counter()
        record = run.population.unpack(payload)
        self._log.append_record(record)
        report = None
        if iteration >= progress.started_at:
            report = run.weights.update(record)
        run.population.apply(record)
        progress.records.append(record)
        updated = time.perf_counter()
        self._weights.applied(team, iteration)
        work, self._iteration = self._iteration, None
        self._evaluations.forget()
        self._log.write_completions(f"train-{iteration + 1:05d}")
        self._callbacks.state.global_step = run.population.iteration
        if iteration < progress.resumed_at or report is None:
            return
        seconds = dict(work.seconds) if work is not None and work.number == iteration else {}
        seconds |= {"update": updated - start, "digest": time.perf_counter() - updated}
        self._callbacks.call("on_step_end")
        if team.leads and not self._log.is_logged(iteration):
            self._log_iteration(record, report, seconds)

    def _log_iteration(self, record: Record, report: UpdateReport, seconds: dict[str, float]) -> None:
        figures = self._figures.pop(record.iteration, None)
        metrics = iteration_metrics(record, figures, report, seconds)
        flat = metrics["fitness/min"] == metrics["fitness/max"]
        step, ratio, zero = record.iteration + 1, metrics["update/moved_ratio"], not record.coefficients.any()
        self._log.found(self._diagnosis.moved(step, ratio, flat=flat, zero=zero))
        self._log.iteration(metrics, figures.counts.waited_us / 1e6 if figures is not None else 0.0)

    def _current(self) -> Iteration:
        number, config = self._run.population.iteration, self._run.config
        if self._iteration is None or self._iteration.number != number:
            logged = (number + 1) % config.logging_steps == 0
            self._iteration = Iteration(self._run, self._log.completions if logged else None)
        return self._iteration

    def _read(self, journaled: Sequence[Event]) -> None:
        for event in journaled:
            if not self._evaluations.read(event) and self._diagnosis.recall(event.get("event", "")):
                logger.warning("iteration %d of this run: %s", event["step"], event["why"])

    def note(self, payload: bytes) -> None:
        """An event that the leader has journaled."""
        event = json.loads(payload)
        self._read([event])
        self._log.append_event(event)

    def agreed(self, iteration: int, digest: int) -> None:
        """All ranks have the same weights: write their digest."""
        self._log.append_digest(iteration, digest)

    def diverged(self, ranks: Sequence[int], iteration: int, *, again: bool) -> None:
        """Ranks have other weights than the majority."""
        self._weights.diverged(ranks, iteration, again=again)

    def rebuild(self, team: Team, iteration: int) -> None:
        """Rebuild this rank's weights; see `WeightStore.rebuild`."""
        self._weights.rebuild(team, iteration)
        self._iteration = None
        self._evaluations.forget()

    def lost(self, rank: int, loss: Loss) -> None:
        """A rank was lost: write that, unless an earlier leader did."""
        if not events.was_lost(self._log.leading.events, rank):
            why = str(loss)
            short = why.rstrip().rpartition("\n")[2]  # the last line of a traceback
            message = f"rank {rank} was lost ({short}); the others continue"
            self._log.happened("lost", message, rank=rank, why=why)

    def back(self, rank: int) -> None:
        """A rank takes part again. A leader that slept may have missed ranks that continued without it."""
        if events.was_lost(self._log.leading.events, rank):
            self._log.happened("back", f"rank {rank}, silent before, is back", rank=rank)

    def differs(self, ranks: tuple[int, int]) -> None:
        """Two ranks gave different results for one unit: something isn't deterministic."""
        first, second = ranks
        message = f"ranks {first} and {second} gave different rewards for the same unit; those of rank {first} count"
        self._log.happened("differs", message, ranks=list(ranks))

    def halt(self) -> None:
        """End after the record of this iteration."""
        self._progress.halting = True

    def _finish(self, team: Team) -> None:
        """Leader: write the model and the result, unless the call was interrupted, and end the call."""
        files, step, interrupted = self._log.leading, self._run.population.iteration, self._progress.halting
        resumed_at = self._progress.resumed_at
        result = result_of(self._run, self._evaluations.history, resumed_at=resumed_at, seconds=files.seconds())
        if (warning := self._diagnosis.flat_warning(step - resumed_at)) is not None:
            logger.warning("%s", warning)
        if interrupted:
            files.append_event(events.happened("interrupted", step))
        else:
            try:
                export(self._run, self._model, files.directory.model)
                write_json(files.directory.result, result)
            except EsError as error:
                raise type(error)(f"{error}; the journal holds all {step} iterations: resume, or replay it") from error
        end = {"result": result, "interrupted": interrupted, "directory": str(files.directory.path)}
        team.finish(json.dumps(end).encode())

    def output(self, payload: bytes) -> TrainOutput:
        """The result of the finished call, on this rank."""
        end = json.loads(payload)
        self._log.enter(RunDirectory(Path(end["directory"])))  # for a rank that joined after the end
        self._callbacks.call("on_train_end")
        self._log.close()
        before = self._evaluations.history.get(0, self._progress.resumed_at)
        after = self._evaluations.history.get(end["result"]["steps"])
        return TrainOutput(
            global_step=end["result"]["steps"],
            metrics=end["result"],
            output_dir=end["directory"],
            answers_before=before.answers if before else [],
            answers_after=after.answers if after else [],
            interrupted=end["interrupted"],
        )
