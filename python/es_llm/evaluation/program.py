"""The collective call of one evaluation."""

from __future__ import annotations

import json

from es_llm.evaluation.work import Evaluation, EvaluationWork
from es_llm.team import Outcome, Program, Round, Table, Team

ROUND = Round(1, 0)
"""Its only one."""


class Evaluate(Program):
    """Evaluate once; the result is the evaluation's metrics as JSON. `evaluation` is set on the leader."""

    evaluation: Evaluation | None = None

    def __init__(self, work: EvaluationWork, answers: int = 0) -> None:
        self._work, self._answers = work, answers

    def advance(self, team: Team) -> None:
        """Begin, or finish."""
        if self.evaluation is None:
            team.begin(ROUND, self._work.costs)
        else:
            team.finish(json.dumps(self.evaluation.metrics).encode())

    def evaluate(self, round_: Round, unit: int) -> Outcome:
        """One unit of the rows."""
        return self._work.evaluate(unit)

    def complete(self, team: Team, round_: Round, table: Table) -> None:
        """Keep the means."""
        self.evaluation = self._work.result(table, self._answers)
