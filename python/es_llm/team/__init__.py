"""The ranks of a job as a team: collective calls that survive dead, hung and failing ranks.

The Rust machine (`es_llm._core.TeamRank`) decides; `Wire` carries its messages; `Team` carries out its steps with a
`Program`, which knows what the work is.
"""

from es_llm.team.program import Outcome, Program, Round, Table
from es_llm.team.programs import Fail, Lead
from es_llm.team.team import Team

__all__ = ["Fail", "Lead", "Outcome", "Program", "Round", "Table", "Team"]
