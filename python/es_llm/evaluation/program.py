"""One evaluation as a separate collective call, outside a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from es_llm.evaluation.work import Evaluation, EvaluationSets, EvaluationWork
from es_llm.team import Outcome, Round, RoundKind, RoundProgram, Table, Team, run_program
from es_llm.units.completion_log import CompletionLog
from es_llm.units.run_state import RunState

_ROUND: Final = Round(RoundKind.EVALUATION, 0)
"""The only round of such a call, in which no rank has records."""


def evaluate(run: RunState, data: EvaluationSets) -> Evaluation:
    """Collective: evaluate the current weights. The metrics are equal on all ranks; the leader has answers too.

    With `log_completions` each rank keeps the completions that it made in `output_dir`.
    """
    config = run.config
    log = CompletionLog(run.team.rank) if config.log_completions and config.output_dir else None
    program = _Evaluate(EvaluationWork(run, data, _ROUND, log), config.num_completions_to_print)
    metrics = json.loads(run_program(run.team, program))
    if log is not None:
        log.write(Path(str(config.output_dir)), "eval")
    answers = [] if program.evaluation is None else program.evaluation.answers
    return Evaluation(metrics=metrics, answers=answers)


class _Evaluate(RoundProgram):
    """Its result are the evaluation's metrics as JSON. `evaluation` is set on the leader."""

    def __init__(self, work: EvaluationWork, answers: int) -> None:
        self._work, self._answers = work, answers
        self.evaluation: Evaluation | None = None

    def advance(self, team: Team) -> None:
        if self.evaluation is None:
            team.begin(_ROUND, self._work.costs)
        else:
            team.finish(json.dumps(self.evaluation.metrics).encode())

    def evaluate(self, round_: Round, unit: int) -> Outcome:
        return self._work.evaluate(unit)

    def complete(self, team: Team, round_: Round, table: Table) -> None:
        self.evaluation = self._work.result(table, self._answers)
