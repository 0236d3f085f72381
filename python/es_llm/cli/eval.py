"""`es-llm eval`: score a model on a task's held-out rows."""

from __future__ import annotations

import argparse
import json

from es_llm.cli.options import add_run_options, run_communicator, run_options
from es_llm.cli.quiet import quiet_libraries
from es_llm.comm import Communicator
from es_llm.config.parser import Parser

communicator = run_communicator


def add_arguments(parser: Parser) -> None:
    """All options of a run (those of the training alone have no effect here)."""
    add_run_options(parser)


def run(options: argparse.Namespace, comm: Communicator) -> int:
    """Evaluate; rank 0 prints the metrics as JSON."""
    script, config = run_options(options)
    quiet_libraries()
    from es_llm.assemble import assemble

    trainer = comm.together(lambda: assemble(script, config, comm))
    metrics = trainer.evaluate()
    if comm.rank == 0:
        print(json.dumps(metrics, indent=2))
    return 0
