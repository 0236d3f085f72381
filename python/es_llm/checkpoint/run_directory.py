"""The directory of a run, and its files.

config.json    every option of the run, resolved
journal.es     header and one record per iteration: with the base model, this is the checkpoint
metrics.jsonl  one line per iteration or evaluation
checkpoint-N/  a snapshot after N iterations, Hugging Face layout
model/         the trained model, Hugging Face layout
result.json    metrics and SHA-256 of the weights at the end
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from es_llm.errors import ConfigError, JournalError


class RunDirectory:
    """Paths of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = path / "journal.es"
        self.metrics = path / "metrics.jsonl"
        self.config = path / "config.json"
        self.model = path / "model"
        self.result = path / "result.json"

    def prepare(self) -> None:
        """Make the directory."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"`output_dir` {str(self.path)!r} can't be created: {error}") from error
        if not os.access(self.path, os.W_OK):
            why = "its disk or its permissions allow reading only"
            raise ConfigError(f"`output_dir` {str(self.path)!r} can't be written: {why}")

    def refuse_other_run(self) -> None:
        """Refuse a directory that holds a run."""
        if self.journal.exists():
            raise ConfigError(
                f"`output_dir` {str(self.path)!r} holds another run; resume it by its command plus "
                f"`--resume_from_checkpoint {self.path}`, or name another directory"
            )


def free_directory(parent: Path, stem: str) -> Path:
    """Create the first of parent/stem-1, parent/stem-2, ... that doesn't exist, and return it."""
    number = 1
    while True:
        path = parent / f"{stem}-{number}"
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return path


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file that appears whole or not at all."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all: temporary file, fsync, rename.

    The temporary file has a unique name, since a leader that was stopped here may find that another leader has written
    the same file meanwhile.

    Raises:
        JournalError: the file can't be written; the message names it.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise JournalError(f"{str(path)!r} can't be written: {error}") from error
