"""`es-llm train`, also `python -m es_llm.train`: train a model."""

from __future__ import annotations

import argparse

from es_llm.cli.options import add_run_options, quiet_libraries, run_mailbox, run_options
from es_llm.cli.signals import INTERRUPTED, StopSignals
from es_llm.comm.mailbox import Mailbox
from es_llm.config import ESConfig
from es_llm.errors import StoppedError
from es_llm.team import Team, together

_SIGNALS = StopSignals()

add_arguments = add_run_options


def mailbox(options: argparse.Namespace) -> Mailbox:
    """The mailbox that the options select. Signals are handled from here on."""
    _SIGNALS.listen()
    return run_mailbox(options)


def run(options: argparse.Namespace, team: Team) -> int:
    """Train, and return the exit code. The leader prints progress, then a few answers from before and after.

    SIGTERM or Ctrl-C ends the training after the current iteration, or before the first one, with exit code 75. A
    second signal ends it at once.
    """
    script, config = run_options(options)
    quiet_libraries()
    from es_llm.assemble import assemble
    from es_llm.cli.show import show_output

    with _SIGNALS.tell(team):
        try:
            trainer = together(team, lambda: _SIGNALS.preparing(lambda: assemble(script, config, team)))
            if team.rank == 0:
                parameters = trainer.run.weights.table.elements
                args, prompts = trainer.args, trainer.run.prompts.per_iteration
                print(
                    f"es-llm: {parameters / 1e6:.2f} M parameters, {args.population_size} members x {prompts} prompts, "
                    f"{args.max_steps} iterations, {team.size} rank(s)",
                    flush=True,
                )
            output = trainer.train()
        except StoppedError as error:
            if team.speaks:
                print(f"es-llm: {error}; {_how_to_start_again(config)}", flush=True)
            return INTERRUPTED
    if output.interrupted:
        if team.leads:
            print(f"es-llm: interrupted; {_resume_by(output.output_dir)}", flush=True)
        return INTERRUPTED
    if team.leads:
        show_output(output)
    return 0


def _how_to_start_again(config: ESConfig) -> str:
    directory = config.resume_from_checkpoint or config.output_dir
    return "start it again" if directory is None else _resume_by(directory)


def _resume_by(directory: str) -> str:
    return f"resume with the same command plus --resume_from_checkpoint {directory}"
