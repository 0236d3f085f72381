"""Code that several commands share: the options of a run, its mailbox, the journal of a run."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, NamedTuple

from es_llm._core import Journal
from es_llm.comm import Mailbox, SingleMailbox, select_mailbox
from es_llm.config import ESConfig, ScriptArguments
from es_llm.config.fields import option_fields
from es_llm.config.parser import Parser, add_options
from es_llm.config.resolve import read_config, resolve
from es_llm.errors import JournalError


def add_run_options(parser: Parser) -> None:
    """Add flags for all options, and `--config`."""
    parser.add_argument("--config", help="YAML or TOML file of options; flags override it")
    add_options(parser, ScriptArguments, ESConfig)


def run_options(options: argparse.Namespace) -> tuple[ScriptArguments, ESConfig]:
    """The options of a run: defaults, overridden by the file, overridden by flags."""
    known = set(option_fields(ScriptArguments, ESConfig))
    flags: dict[str, Any] = {name: value for name, value in vars(options).items() if name in known}
    file = read_config(options.config, known) if options.config else {}
    return resolve(file, flags)


def run_mailbox(options: argparse.Namespace) -> Mailbox:
    """The mailbox that the options select."""
    script, _ = run_options(options)
    return select_mailbox(script.comm)


def one_process(options: argparse.Namespace) -> Mailbox:
    """The mailbox of a command that works in one process."""
    return SingleMailbox()


class FinishedRun(NamedTuple):
    """The journal of a run: its path, its content, and its decoded header."""

    path: Path
    journal: Journal
    header: dict[str, Any]


def add_finished_run(parser: Parser) -> None:
    """Add the argument `run` (see `read_run`)."""
    parser.add_argument("run", help="directory of the run, or its journal")


def read_run(run: str) -> FinishedRun:
    """The journal at `run`, which is a run's directory or the journal itself."""
    from es_llm.checkpoint.identity import read_journal

    path = Path(run) / "journal.es" if Path(run).is_dir() else Path(run)
    if not path.is_file():
        raise JournalError(f"no journal at {str(path)!r}")
    return FinishedRun(path, *read_journal(str(path)))


def quiet_libraries() -> None:
    """Show only errors of transformers, no progress bars, and no warnings of tokenizers about forks.

    Call it before anything imports transformers, which reads TQDM_DISABLE when it is imported.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
