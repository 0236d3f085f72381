"""Entry point: picks the command, turns errors into one message from rank 0 and an exit code.

Exit codes: 0 done; 1 a failure that is a bug or a lost machine (with a traceback); 2 a clear error of input or
disk; 130 interrupted.
"""

from __future__ import annotations

import importlib
import logging
import sys
import time
import traceback
from collections.abc import Sequence

from es_llm import __version__
from es_llm.comm.base import Communicator
from es_llm.comm.select import launched_rank
from es_llm.comm.single import SingleCommunicator
from es_llm.config.fields import nearest
from es_llm.config.parser import Parser
from es_llm.errors import ConfigError, EsError

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

    Parsing happens before a communicator exists: every rank parses the same words, so each fails alike.
    """
    logging.basicConfig(level=logging.WARNING, format="es-llm: %(message)s", stream=sys.stderr)
    command = importlib.import_module(f"es_llm.cli.{name}")
    parser = Parser(prog=f"es-llm {name}", description=COMMANDS[name])
    command.add_arguments(parser)
    comm: Communicator = SingleCommunicator()
    try:
        options = parser.parse_known(words)
        comm = command.communicator(options)
        if comm.rank != 0:
            logging.getLogger().setLevel(logging.ERROR)
        code: int = command.run(options, comm)
        return code
    except EsError as error:
        return _fail(comm, error)
    except KeyboardInterrupt:
        return 130
    except Exception:
        print(
            f"es-llm: rank {comm.rank} of {comm.size} failed:\n{traceback.format_exc()}",
            file=sys.stderr,
            flush=True,
        )
        if comm.size > 1:
            comm.abort(1)
        return 1


def _fail(comm: Communicator, error: EsError) -> int:
    """Say it once. An error that all ranks share (see `Communicator.agree`) is told by rank 0 alone; one that
    only this rank has ends the job, since the others wait for this rank."""
    shared = error.shared or comm.size == 1
    if shared and comm.size == 1 and launched_rank() != 0:
        # Every rank met this before they knew each other. A launcher ends all when the first one goes: let rank 0 speak.
        time.sleep(_SPEECH_S)
    if not shared or (comm.rank == 0 and (comm.size > 1 or launched_rank() == 0)):
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        print(f"es-llm: error: {kind}{error}", file=sys.stderr, flush=True)
    if not shared:
        comm.abort(2)
    return 2


def _usage() -> str:
    lines = "\n".join(f"  {name:<9}{text}" for name, text in COMMANDS.items())
    return f"usage: es-llm COMMAND [options]\n\n{lines}\n\n`es-llm COMMAND --help` lists its options."
