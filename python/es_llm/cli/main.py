"""Entry point: picks the command, turns errors into one message from rank 0 and an exit code.

Exit codes: 0 done; 1 a failure that is a bug or a lost machine (with a traceback); 2 a clear error of input or
disk; 75 ended by a signal after a record, can be resumed; 130, 143 interrupted at once.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Sequence

from es_llm import __version__
from es_llm.comm import SingleMailbox
from es_llm.comm.launcher import launched_rank
from es_llm.config.fields import nearest
from es_llm.config.parser import Parser
from es_llm.errors import ConfigError, EsError, LeftOutError
from es_llm.rewards.processes import open_standard_descriptors
from es_llm.team import Team

_SPEECH_S = 5.0

COMMANDS = {
    "train": "fine-tune a model (mpirun -n N works)",
    "eval": "score a model on a task's held-out rows",
    "replay": "rebuild the trained weights from base model and journal",
    "inspect": "show what a journal holds",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `es-llm` with these words (default: the process's); returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(_usage())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"es-llm {__version__}")
        return 0
    if words[0] not in COMMANDS:
        print(
            f"es-llm: unknown command {words[0]!r}{nearest(words[0], COMMANDS)}\n\n{_usage()}",
            file=sys.stderr,
        )
        return 2
    return run_command(words[0], words[1:])


def run_command(name: str, words: Sequence[str]) -> int:
    """Run one command; an `EsError` becomes a message and exit code 2.

    Parsing happens before ranks know each other: every rank parses the same words, so each fails alike.
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
    """Warnings are told by the rank that leads, or would; errors by every rank that meets one."""

    def passes(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or team.leads or team.speaks

    for handler in logging.getLogger().handlers:
        handler.addFilter(passes)


def _fail(team: Team, error: EsError) -> int:
    """Say it once. An error that all ranks share is told by the lowest one alone; one that only this rank has ends the
    job, since the others wait for this rank."""
    shared = error.shared or team.size == 1
    alone = team.size == 1 and launched_rank() != 0
    if not shared or (team.speaks and not alone):
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        print(f"es-llm: error: {kind}{error}", file=sys.stderr, flush=True)
    elif alone:
        # Every rank met this before they knew each other: rank 0 tells it.
        time.sleep(_SPEECH_S)
    if not shared:
        team.mailbox.abort(2)
    return 2


def _crash(team: Team) -> int:
    if team.size == 1 or team.rank not in team.losses:
        where = f"rank {team.rank} of {team.size} failed:\n" if team.size > 1 else ""
        print(f"es-llm: {where}{traceback.format_exc()}", file=sys.stderr, flush=True)
    if team.size > 1:
        team.mailbox.abort(1)
    return 1


def _leave(team: Team, code: int) -> int:
    """End this rank's part. A launcher ends all ranks when one goes with a code, so the speaking one goes first."""
    if code != 0 and team.size > 1 and not team.speaks:
        time.sleep(_SPEECH_S)
    team.close(code)
    return code


def _usage() -> str:
    lines = "\n".join(f"  {name:<9}{text}" for name, text in COMMANDS.items())
    return f"usage: es-llm COMMAND [options]\n\n{lines}\n\n`es-llm COMMAND --help` lists its options."
