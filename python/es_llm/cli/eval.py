"""`es-llm eval`: score a model on a task's held-out rows."""

from __future__ import annotations

import argparse
import json

from es_llm.cli.options import add_run_options, run_mailbox, run_options
from es_llm.cli.quiet import quiet_libraries
from es_llm.cli.together import together
from es_llm.config.parser import Parser
from es_llm.team import Team

mailbox = run_mailbox


def add_arguments(parser: Parser) -> None:
    """All options of a run (those of the training alone have no effect here)."""
    add_run_options(parser)


def run(options: argparse.Namespace, team: Team) -> int:
    """Evaluate; the leading rank prints the metrics as JSON."""
    script, config = run_options(options)
    quiet_libraries()
    from es_llm.assemble import assemble

    trainer = together(team, lambda: assemble(script, config, team))
    metrics = trainer.evaluate()
    if team.leads:
        print(json.dumps(metrics, indent=2))
    return 0
