"""The ranks of a job as a team: collective calls that survive dead, hung and failing ranks.

The Rust machine (`es_llm._core.TeamRank`) decides; `Wire` carries its messages; a `Program` defines the work, and
`run_program` carries out the machine's instructions with it.
"""

from es_llm._core import Loss, Table
from es_llm.team.call import report_failure, run_on_leader, run_program, together
from es_llm.team.program import Outcome, Program, RecordProgram, RoundProgram
from es_llm.team.team import Round, RoundKind, Team

__all__ = [
    "Loss",
    "Outcome",
    "Program",
    "RecordProgram",
    "Round",
    "RoundKind",
    "RoundProgram",
    "Table",
    "Team",
    "report_failure",
    "run_on_leader",
    "run_program",
    "together",
]
