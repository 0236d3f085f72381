"""The evaluations within a training: their work on this rank, and their history."""

from __future__ import annotations

import json

from es_llm.checkpoint.events import Event
from es_llm.evaluation.history import EvaluationHistory
from es_llm.evaluation.work import Evaluation, EvaluationSets, EvaluationWork
from es_llm.team import Outcome, Round, RoundKind, Table, Team
from es_llm.trainer.loop.run_log import RunLog
from es_llm.units.run_state import RunState


class Evaluations:
    """The evaluations of a run: begins, evaluates and completes them."""

    def __init__(self, run: RunState, data: EvaluationSets | None, log: RunLog) -> None:
        self._run, self._data, self._log = run, data, log
        self.history = EvaluationHistory(run.config)
        self._work: EvaluationWork | None = None

    def due(self, step: int, *, last: bool, asked: bool) -> bool:
        """See `EvaluationHistory.due`; False without rows."""
        return self._data is not None and self.history.due(step, last=last, asked=asked)

    def begin(self, team: Team) -> None:
        """Leader: open the round of an evaluation."""
        self._log.start_clock()
        team.begin(Round(RoundKind.EVALUATION, self._run.population.iteration), self._current().costs)

    def evaluate(self, unit: int) -> Outcome:
        """The results of one unit."""
        return self._current().evaluate(unit)

    def complete(self, team: Team, table: Table) -> Evaluation:
        """Leader: the evaluation that all units make; written, and noted by all ranks."""
        step = self._run.population.iteration
        evaluation = self._current().result(table, self._run.config.num_completions_to_print)
        self.history.add(step, evaluation)
        self._log.write_completions(f"eval-{step:05d}")
        event = self.history.event(step)
        self._log.leading.append_event(event)
        team.note(json.dumps(event | {"answers": []}).encode())
        self._log.evaluation(step, evaluation.metrics)
        return evaluation

    def forget(self) -> None:
        """Drop the work of the last evaluation: the weights will change, or have changed."""
        self._work = None

    def read(self, event: Event) -> bool:
        """Take an evaluation from an event of a journal; False if the event is of another kind."""
        if not self.history.read(event):
            return False
        self._log.write_completions(f"eval-{event['step']:05d}")
        return True

    def _current(self) -> EvaluationWork:
        if self._work is None:
            assert self._data is not None, "the leader has rows to evaluate, this rank has none"
            round_ = Round(RoundKind.EVALUATION, self._run.population.iteration)
            self._work = EvaluationWork(self._run, self._data, round_, self._log.completions)
        return self._work
