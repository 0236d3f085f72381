"""Entry point: runs a command, and turns errors into one message of the job and an exit code.

Exit codes: 0 done; 1 a bug or a lost machine (with a traceback); 2 a wrong input or a failing disk; 75 ended by a
signal and ready to be resumed; 130 and 143 interrupted at once.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Final

import es_llm
from es_llm.comm import SingleMailbox
from es_llm.comm.launcher import launched_rank
from es_llm.config.fields import nearest
from es_llm.config.parser import Parser
from es_llm.errors import ConfigError, EsError, LeftOutError
from es_llm.rewards.workers.system import open_standard_descriptors
from es_llm.team import Team

_REPORT_S: Final = 5.0
"""Time that another rank gets to print its message before this rank ends, since a launcher then ends all ranks."""

COMMANDS = {
    "train": "fine-tune a model (mpirun -n N works)",
    "eval": "evaluate a model on held-out rows",
    "replay": "rebuild the trained weights from base model and journal",
    "inspect": "show the content of a journal",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `es-llm` with these arguments (default: those of the command line), and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"es-llm {es_llm.__version__}")
        return 0
    if words[0] not in COMMANDS:
        print(
            f"es-llm: unknown command {words[0]!r}{nearest(words[0], COMMANDS)}\n\n{_usage()}",
            file=sys.stderr,
        )
        return 2
    return run_command(words[0], words[1:])


def run_command(name: str, words: Sequence[str]) -> int:
    """Run one command, and return its exit code. An `EsError` becomes a message and exit code 2.

    Ranks parse the command line before they communicate. It is the same on all ranks, so a parse error occurs on all.
    """
    open_standard_descriptors()
    logging.basicConfig(level=logging.WARNING, format="es-llm: %(message)s", stream=sys.stderr)
    command = importlib.import_module(f"es_llm.cli.{name}")
    parser = Parser(prog=f"es-llm {name}", description=COMMANDS[name])
    command.add_arguments(parser)
    team = Team(SingleMailbox())
    try:
        options = parser.parse_known(words)
        team = Team(command.mailbox(options))
        _warn_once(team)
        code: int = command.run(options, team)
    except LeftOutError as error:
        print(f"es-llm: {error}", file=sys.stderr, flush=True)
        code = 0
    except EsError as error:
        code = _fail(team, error)
    except KeyboardInterrupt:
        code = 130
    except SystemExit as error:
        if team.size == 1:
            raise
        code = error.code if isinstance(error.code, int) else 1
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception:
        code = _crash(team)
    return _leave(team, code)


def _warn_once(team: Team) -> None:
    """Print warnings only on the leader, or on the lowest rank before there is one; print errors on every rank."""

    def passes(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or team.leads or team.speaks

    for handler in logging.getLogger().handlers:
        handler.addFilter(passes)


def _fail(team: Team, error: EsError) -> int:
    """Print an error once, and return exit code 2.

    If all ranks have the error, the lowest rank prints it. If only this rank has it, this rank prints it and ends the
    job, since the other ranks wait for this rank."""
    shared = error.shared or team.size == 1
    alone = team.size == 1 and launched_rank() != 0
    if not shared or (team.speaks and not alone):
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        print(f"es-llm: error: {kind}{error}", file=sys.stderr, flush=True)
    elif alone:
        # All ranks have this error, but they don't communicate yet. Rank 0 prints the error.
        time.sleep(_REPORT_S)
    if not shared:
        team.mailbox.abort(2)
    return 2


def _crash(team: Team) -> int:
    """Print the traceback, unless the other ranks have already reported it, and return exit code 1."""
    if team.size == 1 or team.rank not in team.losses:
        where = f"rank {team.rank} of {team.size} failed:\n" if team.size > 1 else ""
        print(f"es-llm: {where}{traceback.format_exc()}", file=sys.stderr, flush=True)
    if team.size > 1:
        team.mailbox.abort(1)
    return 1


def _leave(team: Team, code: int) -> int:
    """Close the team. A launcher ends all ranks once one ends with an error, so the rank that reports it ends first."""
    if code != 0 and team.size > 1 and not team.speaks:
        time.sleep(_REPORT_S)
    team.close(code)
    return code


def _usage() -> str:
    lines = "\n".join(f"  {name:<9}{text}" for name, text in COMMANDS.items())
    return f"usage: es-llm COMMAND [options]\n\n{lines}\n\n`es-llm COMMAND --help` lists the options of a command."
