"""`es-llm train`, also `python -m es_llm.train`."""

from __future__ import annotations

import argparse

from es_llm.cli.options import add_run_options, run_communicator, run_options
from es_llm.cli.quiet import quiet_libraries
from es_llm.comm import Communicator
from es_llm.config.parser import Parser

communicator = run_communicator


def add_arguments(parser: Parser) -> None:
    """All options of a run."""
    add_run_options(parser)


def run(options: argparse.Namespace, comm: Communicator) -> int:
    """Train; rank 0 shows progress, then a few answers before and after."""
    script, config = run_options(options)
    quiet_libraries()
    from es_llm.assemble import assemble
    from es_llm.cli.show import show_output

    trainer = comm.together(lambda: assemble(script, config, comm))
    if comm.rank == 0:
        parameters = trainer.run.weights.table.elements
        print(
            f"es-llm: {parameters / 1e6:.2f} M parameters, {trainer.args.population_size} members x "
            f"{trainer.run.prompts.per_iteration} prompts, {trainer.args.max_steps} steps, {comm.size} rank(s)",
            flush=True,
        )
    output = trainer.train()
    if comm.rank == 0:
        show_output(output)
    return 0
