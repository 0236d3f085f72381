"""What several commands share: reading options in layers, and the mailbox they ask for."""

from __future__ import annotations

import argparse
from typing import Any

from es_llm.comm import Mailbox, SingleMailbox, select_mailbox
from es_llm.config import ESConfig, ScriptArguments
from es_llm.config.fields import option_fields
from es_llm.config.files import read_config
from es_llm.config.parser import Parser, add_options
from es_llm.config.resolve import resolve


def add_run_options(parser: Parser) -> None:
    """Flags for all options, and `--config`."""
    parser.add_argument("--config", help="YAML or TOML file of options; flags override it")
    add_options(parser, ScriptArguments, ESConfig)


def run_options(options: argparse.Namespace) -> tuple[ScriptArguments, ESConfig]:
    """Options from the file and the flags, over the defaults.

    Raises:
        ConfigError: an unknown name or a bad value.
    """
    known = set(option_fields(ScriptArguments, ESConfig))
    flags: dict[str, Any] = {name: value for name, value in vars(options).items() if name in known}
    file = read_config(options.config, known) if options.config else {}
    return resolve(file, flags)


def run_mailbox(options: argparse.Namespace) -> Mailbox:
    """The mailbox that the options ask for."""
    script, _ = run_options(options)
    return select_mailbox(script.comm)


def one_process(options: argparse.Namespace) -> Mailbox:
    """For commands that work in one process."""
    return SingleMailbox()
