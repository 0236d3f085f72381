"""One call of `train`: builds its session, and runs it with the team."""

from __future__ import annotations

from es_llm.checkpoint.opening import RunOpener
from es_llm.config import ESConfig
from es_llm.errors import JournalTakenError
from es_llm.team import run_program
from es_llm.trainer.assembly.cores import warn_of_idle_cores
from es_llm.trainer.assembly.parts import RunParts
from es_llm.trainer.loop.output import TrainOutput
from es_llm.trainer.loop.run_log import RunLog
from es_llm.trainer.loop.session import Session


def train(parts: RunParts, config: ESConfig) -> TrainOutput:
    """Collective: train to `max_steps`, and leave the run's directory complete."""
    run, header = parts.run, parts.header
    team = run.team
    warn_of_idle_cores(config, team, run.weights.device.type)
    opener = RunOpener(config=config, header=header.text(), name=header.run_name, job=team.mailbox.job, rank=team.rank)
    log = RunLog(run, parts.callbacks, opener, header.options)
    session = Session(run, parts.callbacks, parts.store, log, parts.evaluation_sets())
    header.renew_team(opener.header)
    try:
        return session.output(run_program(team, session))
    except JournalTakenError as error:
        raise log.taken_over(error) from error
    finally:
        log.close()
