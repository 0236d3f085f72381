"""One call of `train` as a program of the team: replay what was saved, evaluate, iterate, complete the directory."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from es_llm._core import Record
from es_llm.callbacks.handler import Callbacks
from es_llm.checkpoint.lock import is_abandoned
from es_llm.checkpoint.metrics_log import evaluation_metrics
from es_llm.checkpoint.opening import OpenRun, open_copy, take_over_run
from es_llm.checkpoint.run_directory import RunDirectory
from es_llm.checkpoint.run_files import RunFiles, copy_of, other_records, taken_from
from es_llm.checkpoint.snapshot import Mark
from es_llm.errors import DivergenceError, EsError, JournalError, JournalTakenError, LeftOutError, ModelError
from es_llm.evaluation.history import Evaluations
from es_llm.evaluation.work import Evaluation, EvaluationWork
from es_llm.team import Outcome, Program, Round, Table, Team
from es_llm.trainer.learning.diagnosis import Diagnosis, Finding
from es_llm.trainer.loop.iteration import ITERATE, Figures, Iteration
from es_llm.trainer.loop.metrics import iteration_metrics
from es_llm.trainer.loop.output import TrainOutput
from es_llm.trainer.loop.weight_store import Origin
from es_llm.units.completion_log import CompletionLog
from es_llm.units.run_state import RunState

logger = logging.getLogger(__name__)

EVALUATE = 1
"""The kind of rounds that evaluate."""


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What the session needs of its trainer."""

    open_run: Callable[[], OpenRun]
    header: str
    options: dict[str, Any]
    evaluation: Callable[[Round, CompletionLog | None], EvaluationWork | None]
    origin: Origin


class Session(Program):
    """Trains a run from where its journal ends to `max_steps`."""

    def __init__(self, run: RunState, callbacks: Callbacks, around: Surroundings) -> None:
        self._run, self._callbacks, self._around = run, callbacks, around
        self.tolerant = run.config.on_rank_error == "lost"
        self._files: RunFiles | None = None
        self._directory: RunDirectory | None = None
        self._records: list[Record] = []
        self._begun = False
        self._resumed_at = 0
        self._started: Mark | None = None
        self._saved = self._logged = 0
        self._halting = False
        self._iteration: Iteration | None = None
        self._work: EvaluationWork | None = None
        self._evaluations = Evaluations(run.config)
        self._diagnosis = Diagnosis(run.config, why_failed=self._why_failed)
        self._figures: dict[int, Figures] = {}
        self._completions = CompletionLog(run.team.rank) if run.config.log_completions else None
        self._clock = time.perf_counter()
        self._traffic = run.team.traffic

    # ---- who leads ----------------------------------------------------------------------------------

    def lead(self, team: Team) -> None:
        """Open the run's directory and tell the others where it is and what is in it."""
        if self._files is not None:
            self._files.leave()
        directory, header, job = self._directory, self._around.header, team.mailbox.job
        opened = take_over_run(directory, header, job, team.rank) if directory else self._around.open_run()
        self._files = files = RunFiles(opened)
        self._directory = files.directory
        known = team.records()
        lacking = files.agree_with(known)
        self._hear(files.events)
        for event in self._evaluations.missing(files.events):
            files.append_event(event)
        self._clock, self._traffic = time.perf_counter(), team.traffic
        if not self._begun:
            self._resume(files, f"{job} {team.calls}")
        self._logged = len(files.saved)  # by the leader that made them, or from the records
        files.begin(self._around.options, self._logged)
        self._callbacks.state.is_world_process_zero = self._callbacks.state.is_local_process_zero = True
        started = None if self._started is None else asdict(self._started)
        told = {"directory": str(files.directory.path), "resumed_at": self._resumed_at, "started": started}
        team.welcome(json.dumps(told).encode())
        if not team.restore(len(known), lacking):
            raise other_records(files.directory)
        self._begin(files.directory)
        self.back(team.rank)

    def _resume(self, files: RunFiles, call: str) -> None:
        """Go on from what this call's first leader found, and wrote down: this rank, or another one that led before
        this one came, and has made more records since."""
        started = next((event for event in files.events if event.get("call") == call), None)
        self._resumed_at = len(files.saved) if started is None else started["step"]
        if self._run.population.iteration == 0:
            found = files.saved[: self._resumed_at]
            self._started = self._around.origin.start(files.directory.path, found, files.digests)
            self._saved = self._started_at
        if started is None:
            kind = "resumed" if self._resumed_at else "started"
            files.append_event({"event": kind, "step": self._resumed_at, "ranks": self._run.team.size, "call": call})

    def abandoned(self, team: Team) -> bool:
        """Whether the journal is there, and nobody who can't be heard may have it."""
        if self._directory is None or not self._directory.journal.exists():
            return False
        return is_abandoned(self._directory.path, team.mailbox.job, team.losses.keys())

    def follow(self) -> None:
        """Another rank, lower than this one, is back and leads."""
        if self._files is not None:
            self._files.leave()
            self._files = None
        self._callbacks.state.is_world_process_zero = self._callbacks.state.is_local_process_zero = False

    def welcome(self, payload: bytes) -> None:
        """Where the leader's directory is. A host that doesn't see it keeps a copy of the journal."""
        told = json.loads(payload)
        directory = RunDirectory(Path(told["directory"]))
        self._resumed_at = told["resumed_at"]
        team = self._run.team
        if self._files is None and team.local_rank == 0:
            known = [record.to_bytes() for record in self._records]
            self._files = copy_of(lambda: open_copy(directory, self._around.header, team.mailbox.job), known)
        if not self._begun and told["started"] and not self._records:
            mark = Mark(**told["started"])
            self._started = mark if self._around.origin.start_like(directory.path, mark) else None
        self._begin(directory)

    def _begin(self, directory: RunDirectory) -> None:
        self._directory = directory
        if self._begun:
            return
        self._begun = True
        self._callbacks.control.should_training_stop = False
        self._callbacks.begin_run(directory.path)
        self._callbacks.state.global_step = max(self._resumed_at, self._run.population.iteration)
        self._callbacks.call("on_train_begin")

    # ---- the work -----------------------------------------------------------------------------------

    def advance(self, team: Team) -> None:
        """The next evaluation or iteration, or the end."""
        step, control = self._run.population.iteration, self._callbacks.control
        if self._halting:
            self._finish(team, interrupted=True)
        elif self._evaluations.due(step, last=self._stopping(step), asked=control.should_evaluate):
            control.should_evaluate = False
            work = self._evaluation_work()
            if work is None:
                self._evaluations.add(step, Evaluation(metrics={}))
                self.advance(team)
            else:
                self._clock = time.perf_counter()
                team.begin(Round(EVALUATE, step), work.costs)
        elif not self._stopping(step):
            self._callbacks.call("on_step_begin")
            self._clock = time.perf_counter()
            team.begin(Round(ITERATE, step), self._current().costs)
            self._save_if_due(step, last=False)  # while the others evaluate
        else:
            self._save_if_due(step, last=True)
            self._finish(team, interrupted=False)

    def evaluate(self, round_: Round, unit: int) -> Outcome:
        """One unit of an iteration or of an evaluation."""
        if round_.kind == ITERATE:
            self._work = None
            return self._current().evaluate(unit)
        work = self._evaluation_work()
        assert work is not None, "the leader has rows to evaluate, this rank has none"
        return work.evaluate(unit)

    def complete(self, team: Team, round_: Round, table: Table) -> None:
        """All units are told: a record, on the disk before anything changes; or an evaluation."""
        files = self._leading()
        if round_.kind == EVALUATE:
            self._evaluated(team, round_.step, table)
            return
        iteration = self._current()
        assert round_.step == iteration.number, (round_, iteration.number)
        record, figures = iteration.record(table)
        self._figures[iteration.number] = figures
        start = time.perf_counter()
        files.append_record(record)
        failures = figures.failures
        self._report_findings(self._diagnosis.observe(figures.evidence(record)))
        if failures:
            examples = {name: failure.why[-300:] for name, failure in self._run.rewards.examples.items()}
            event = {"event": "failures", "step": record.iteration + 1, "count": failures}
            files.append_event({**event, "examples": examples})
        iteration.seconds["journal"] = time.perf_counter() - start
        team.publish(record.iteration, record.to_bytes())

    def apply(self, team: Team, iteration: int, payload: bytes) -> None:
        """Move the weights by a record, of this iteration or of a journal."""
        run, record, start = self._run, Record.from_bytes(payload), time.perf_counter()
        self._keep_record(record)
        report = None
        if iteration >= self._started_at:
            report = run.weights.update(record, run_seed=run.population.run_seed)
        run.population.apply(record)
        self._records.append(record)
        updated = time.perf_counter()
        self._check_saved_digest(iteration)
        if self._digest_due(iteration):
            team.digest(iteration, run.weights.digest())
        work, self._iteration, self._work = self._iteration, None, None
        self._write_completions(f"train-{iteration + 1:05d}")
        self._callbacks.state.global_step = run.population.iteration
        if iteration < self._resumed_at or report is None:
            return
        seconds = dict(work.seconds) if work is not None and work.number == iteration else {}
        seconds |= {"update": updated - start, "digest": time.perf_counter() - updated}
        self._callbacks.call("on_step_end")
        if team.leads and self._files is not None and iteration >= self._logged:
            figures = self._figures.pop(iteration, None)
            metrics = iteration_metrics(record, figures, report, seconds)
            flat = metrics["fitness/min"] == metrics["fitness/max"]
            self._report_findings(self._diagnosis.moved(iteration + 1, metrics["update/moved_ratio"], flat=flat))
            self._log_step(metrics, figures.waited_s if figures is not None else 0.0)

    def _keep_record(self, record: Record) -> None:
        """It is in the leader's journal already, unless this rank leads; a copy that is gone or full is let go."""
        if self._files is not None:
            try:
                self._files.append_record(record)
            except JournalError as error:
                if self._run.team.leads:
                    raise
                logger.error("this host keeps no copy of the journal any more: %s", error)
                self._files.leave()
                self._files = None

    def _log_step(self, metrics: dict[str, Any], waited_s: float) -> None:
        total = time.perf_counter() - self._clock
        metrics["rewards/wait_ratio"] = waited_s / (total * self._run.team.size)
        sent, received = self._run.team.traffic
        before, self._traffic = self._traffic, (sent, received)
        metrics |= {"seconds": total, "bytes_sent": sent - before[0], "bytes_received": received - before[1]}
        self._leading().log(metrics)
        control = self._callbacks.control
        if metrics["step"] % self._run.config.logging_steps == 0 or control.should_log:
            control.should_log = False
            self._report({name: value for name, value in metrics.items() if name != "step"})

    def _report_findings(self, findings: Sequence[Finding]) -> None:
        """Why this run can't learn, into the journal and as a warning."""
        for finding in findings:
            self._happened(finding.reason, finding.message, why=finding.message)

    def _why_failed(self) -> str:
        """The first failure of each reward function that failed, and the names of those that gave None throughout."""
        rewards = self._run.rewards
        silent = {
            name: f"; `{name}` gave None for every completion" for name in rewards.names if name in rewards.silent
        }
        failed = {name: f"; `{name}`: {failure.last_line}" for name, failure in rewards.examples.items()}
        return "".join((silent | failed).get(name, "") for name in rewards.names)

    def _current(self) -> Iteration:
        if self._iteration is None or self._iteration.number != self._run.population.iteration:
            logged = (self._run.population.iteration + 1) % self._run.config.logging_steps == 0
            self._iteration = Iteration(self._run, self._completions if logged else None)
        return self._iteration

    # ---- evaluations --------------------------------------------------------------------------------

    def _evaluation_work(self) -> EvaluationWork | None:
        if self._work is None:
            self._iteration = None
            self._work = self._around.evaluation(Round(EVALUATE, self._run.population.iteration), self._completions)
        return self._work

    def _evaluated(self, team: Team, step: int, table: Table) -> None:
        work = self._evaluation_work()
        assert work is not None
        evaluation = work.result(table, self._run.config.num_completions_to_print)
        seconds = time.perf_counter() - self._clock
        self._evaluations.add(step, evaluation)
        self._write_completions(f"eval-{step:05d}")
        files = self._leading()
        event = self._evaluations.event(step)
        files.append_event(event)
        team.note(json.dumps(event | {"answers": []}).encode())
        logs = evaluation_metrics(evaluation.metrics)
        files.log({"step": step, **logs, "eval_seconds": seconds})
        self._report(logs)
        self._callbacks.call("on_evaluate", metrics=logs)
        if (best := self._evaluations.best) is not None:  # after the callbacks, which compare with the older one
            self._callbacks.state.best_metric, self._callbacks.state.best_global_step = best.value, best.step

    def _stopping(self, step: int) -> bool:
        """Whether no further iteration is wanted: it was the last one, the patience with the metric is over, or a
        callback wishes it."""
        over = step >= self._run.config.max_steps or self._evaluations.hopeless
        return over or bool(self._callbacks.control.should_training_stop)

    def _write_completions(self, name: str) -> None:
        if self._completions is not None and self._directory is not None:
            self._completions.write(self._directory.path, name)

    def _hear(self, events: Sequence[dict[str, Any]]) -> None:
        for event in events:
            if self._evaluations.hear(event):
                self._write_completions(f"eval-{event['step']:05d}")
            elif self._diagnosis.recall(event.get("event", "")):
                logger.warning("step %d of this run: %s", event["step"], event["why"])

    def note(self, payload: bytes) -> None:
        """Something that the leader has journaled."""
        event = json.loads(payload)
        self._hear([event])
        if self._files is not None:
            self._files.append_event(event)

    # ---- digests ------------------------------------------------------------------------------------

    def _digest_due(self, iteration: int) -> bool:
        steps = self._run.config.digest_steps
        return steps > 0 and (iteration + 1) % steps == 0 and iteration + 1 >= self._resumed_at

    def _check_saved_digest(self, iteration: int) -> None:
        """The last digest that the leader's journal holds must be that of the replayed weights."""
        if self._files is None or not self._started_at - 1 <= iteration < self._resumed_at:
            return
        if iteration != max((known for known in self._files.digests if known < self._resumed_at), default=None):
            return
        expected, got = self._files.digests[iteration], self._run.weights.digest()
        if got != expected:
            raise DivergenceError(
                f"after step {iteration + 1} the replayed weights have digest {got:016x}, the journal says "
                f"{expected:016x}: other base weights, or damaged memory"
            )

    def agreed(self, iteration: int, digest: int) -> None:
        """All ranks have these weights: it goes into the journal."""
        if self._files is not None:
            self._files.append_digest(iteration, digest)

    def diverged(self, ranks: Sequence[int], iteration: int, *, hopeless: bool) -> None:
        """Ranks hold other weights than the majority: they are healed, or the run stops."""
        told = f"after step {iteration + 1} rank(s) {list(ranks)} hold other weights than the majority"
        if not hopeless:
            first = max((known for known in self._leading().digests if known < iteration), default=-1) + 1
            told += f"; rewards of steps {first + 1} to {iteration + 1} may come from them"
        if hopeless or self._run.config.on_divergence == "stop":
            again = ", also after they were made anew" if hopeless else ""
            raise DivergenceError(f"{told}{again}; the journal is right: resume from it")
        self._happened("diverged", f"{told}; they are made anew from the journal", ranks=list(ranks))

    def heal(self, team: Team, iteration: int) -> None:
        """Make this rank's weights anew; the others have said no digest after an iteration that isn't due."""
        assert self._directory is not None
        later = range(iteration + 1, len(self._records))
        last = max((known for known in later if self._digest_due(known)), default=iteration)
        path, digests = self._directory.path, self._files.digests if self._files is not None else {}
        digest = self._around.origin.rebuild(path, self._records, digests, compared=last + 1, alive=team.alive)
        self._iteration = self._work = None
        team.digest(last, digest)

    # ---- snapshots ----------------------------------------------------------------------------------

    @property
    def _started_at(self) -> int:
        """After how many iterations the weights were that this rank began with."""
        return self._started.step if self._started is not None else 0

    def _save_if_due(self, step: int, *, last: bool) -> None:
        """A snapshot; without one the run goes on all the same, since its journal is whole."""
        config, control = self._run.config, self._callbacks.control
        best = self._evaluations.best
        due = config.save_steps > 0 and (last or step % config.save_steps == 0)
        if due or control.should_save or (best is not None and best.step == step):
            control.should_save = False
            self._save(step)

    def _save(self, step: int) -> None:
        config, files, best = self._run.config, self._leading(), self._evaluations.best
        if step <= self._saved:
            return
        self._saved = step
        try:
            kept = None if best is None else best.step
            self._around.origin.save(files.directory.path, self._records, config.save_total_limit, kept)
        except ModelError as error:
            self._happened("snapshot failed", f"no snapshot: {error}", why=str(error))
        else:
            files.append_event({"event": "snapshot", "step": step})
            self._callbacks.call("on_save")

    # ---- what happens to ranks ----------------------------------------------------------------------

    def lost(self, rank: int, why: str) -> None:
        """A rank is gone: into the journal, unless an earlier leader wrote it there."""
        if not self._leading().was_lost(rank):
            short = why.rstrip().rpartition("\n")[2]  # of a traceback, which the rank itself told
            self._happened("lost", f"rank {rank} was lost ({short}); the others go on", rank=rank, why=why)

    def back(self, rank: int) -> None:
        """A rank is back, if it was lost: a leader that slept may have missed ranks that went on without it."""
        if self._leading().was_lost(rank):
            self._happened("back", f"rank {rank}, silent before, is back", rank=rank)

    def differs(self, ranks: Sequence[int]) -> None:
        """Two ranks disagree about one unit: something isn't deterministic."""
        first, second = ranks
        told = f"ranks {first} and {second} gave different rewards for the same completions' unit; rank {first}'s count"
        self._happened("differs", told, ranks=list(ranks))

    def halt(self) -> None:
        """End after the record of this iteration."""
        self._halting = True

    def _happened(self, event: str, told: str, **details: Any) -> None:
        step = max(self._run.population.iteration, len(self._leading().saved))
        self._leading().append_event({"event": event, "step": step, **details})
        logger.warning("step %d: %s", step, told)

    # ---- the end ------------------------------------------------------------------------------------

    def _finish(self, team: Team, *, interrupted: bool) -> None:
        run, files, step = self._run, self._leading(), self._run.population.iteration
        before, after = self._evaluations.get(0), self._evaluations.get(step)
        if before is None:
            before = self._evaluations.get(self._resumed_at)
        result = {
            "steps": step,
            "seconds": files.seconds(),
            "eval_before": before.metrics or None if before else None,
            "eval_after": after.metrics or None if after else None,
            "weights_sha256": run.weights.sha256(),
            "parameters": run.weights.table.elements,
            "ranks": team.size,
            "ranks_lost": len(team.losses),
        }
        best = self._evaluations.best
        if best is not None:
            result["best"] = {"step": best.step, "value": best.value}
        flat, made = self._diagnosis.flat_iterations, step - self._resumed_at
        if 10 * flat >= max(1, made):  # a few are normal where rewards are 0 or 1
            message = (
                "in %d of the iterations all members had the same fitness, or none: the weights stayed as they were"
            )
            logger.warning(message, flat)
        if interrupted:
            files.append_event({"event": "interrupted", "step": step})
        else:
            try:
                self._around.origin.export(files.directory.model)
                files.result(result)
            except EsError as error:
                raise type(error)(f"{error}; the journal holds all {step} iterations: resume, or replay it") from error
        end = {"result": result, "interrupted": interrupted, "directory": str(files.directory.path)}
        team.finish(json.dumps(end).encode())

    def output(self, payload: bytes) -> TrainOutput:
        """What the finished call comes to, on this rank."""
        told = json.loads(payload)
        self._begin(RunDirectory(Path(told["directory"])))  # a rank that came when all was over
        self._callbacks.call("on_train_end")
        self.close()
        before = self._evaluations.get(0) or self._evaluations.get(self._resumed_at)
        after = self._evaluations.get(told["result"]["steps"])
        return TrainOutput(
            global_step=told["result"]["steps"],
            metrics=told["result"],
            output_dir=told["directory"],
            answers_before=before.answers if before else [],
            answers_after=after.answers if after else [],
            interrupted=told["interrupted"],
        )

    def taken_over(self, error: JournalTakenError) -> JournalTakenError | LeftOutError:
        """The error, with what became of the run where other ranks go on with it."""
        team = self._run.team
        return error if self._directory is None or team.size == 1 else taken_from(team.rank, self._directory, error)

    def close(self) -> None:
        """Close the files of this rank."""
        if self._files is not None:
            self._files.close()

    def _report(self, logs: dict[str, Any]) -> None:
        self._callbacks.state.log_history.append({**logs, "step": self._callbacks.state.global_step})
        self._callbacks.call("on_log", logs=logs)

    def _leading(self) -> RunFiles:
        if self._files is None:
            raise JournalTakenError("the journal that this rank wrote was deleted, or taken over by another leader")
        return self._files
