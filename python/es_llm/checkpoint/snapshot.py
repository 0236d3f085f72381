"""Snapshots: master weights in Hugging Face layout, and the optimizer's state, as `checkpoint-<step>` in a run's
directory.

The journal is the checkpoint; a snapshot saves a resume the time to replay the records before it. It is used only if it
belongs to the journal's own records and its weights have the digest that its identity names, so a snapshot that is
damaged, unfinished or of another run does no harm. Each appears whole, and older ones are deleted only after that.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from es_llm._core import Record
from es_llm.checkpoint.export import export_model
from es_llm.errors import ModelError
from es_llm.model.loading import load_model
from es_llm.model.weights import Weights

logger = logging.getLogger(__name__)

_DIRECTORY: Final = re.compile(r"checkpoint-([1-9][0-9]*)")
_HIDDEN: Final = re.compile(r"\.checkpoint-[1-9][0-9]*\.(new|old)")
_IDENTITY: Final = "es_llm_snapshot.json"
_OPTIMIZER: Final = "optimizer.safetensors"
"""The optimizer's state, if it has one."""


@dataclass(frozen=True)
class SnapshotIdentity:
    """Which weights a snapshot holds.

    step: number of iterations before it.
    digest: of its masters, 16 hexadecimal digits.
    records_sha256: SHA-256 of the records that led to them.
    """

    step: int
    digest: str
    records_sha256: str


def is_snapshot(path: Path) -> bool:
    """True for the directory of a snapshot."""
    return _DIRECTORY.fullmatch(path.name) is not None and (path / _IDENTITY).is_file()


class Snapshots:
    """The snapshots in the directory of a run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def steps(self) -> list[int]:
        """The steps of all snapshots, ascending."""
        if not self._directory.is_dir():
            return []
        found = (_DIRECTORY.fullmatch(path.name) for path in self._directory.iterdir() if path.is_dir())
        return sorted(int(match[1]) for match in found if match)

    def path(self, step: int) -> Path:
        """The directory of the snapshot after `step` iterations."""
        return self._directory / f"checkpoint-{step}"

    def write(self, weights: Weights, model: Any, tokenizer: Any, records: Sequence[Record]) -> None:
        """Save the masters of `weights`, those of `model` after `records`."""
        identity = SnapshotIdentity(len(records), f"{weights.digest():016x}", _records_sha256(records))
        optimizer = weights.optimizer_state()
        export_model(
            self.path(identity.step),
            model,
            tokenizer,
            state=weights.master_state(model),
            notes={_IDENTITY: asdict(identity)},
            tensors={_OPTIMIZER: optimizer} if optimizer else None,
        )

    def keep(self, step: int, limit: int, kept: int | None = None) -> None:
        """Delete all snapshots up to `step` but the newest `limit` ones and that of the step `kept`.

        Later snapshots, of records that this run hasn't made yet, stay. An error of the disk is logged.
        """
        known = [known for known in self.steps() if known <= step and known != kept]
        try:
            for old in known[:-limit]:
                # A snapshot under its own name must be whole.
                self.path(old).rename(self._directory / f".checkpoint-{old}.old")
        except OSError as error:
            logger.warning("an older snapshot can't be deleted: %s", error)
        self.tidy()

    def tidy(self) -> None:
        """Delete the files of a snapshot whose writing or deletion was interrupted. An error of the disk is logged."""
        try:
            for path in self._directory.iterdir():
                if _HIDDEN.fullmatch(path.name):
                    _remove(path)
        except OSError as error:
            logger.warning("an unfinished snapshot can't be deleted: %s", error)

    def restore(
        self, weights: Weights, records: Sequence[Record], digests: Mapping[int, int], *, set_aside: bool = False
    ) -> SnapshotIdentity | None:
        """Load the masters of the newest snapshot that fits the journal's records and digests.

        None: there is none, and nothing changed. With `set_aside` the files of unfinished snapshots are deleted, and
        snapshots that don't fit are renamed: they are ignored from then on.
        """
        if set_aside:
            self.tidy()
        for step in reversed(self.steps()):
            if step <= len(records):
                expected = _records_sha256(records[:step])
                try:
                    identity = self._identity(step)
                    if identity.records_sha256 != expected:
                        raise ModelError("it belongs to other records than the journal's")
                    if f"{digests.get(step - 1, int(identity.digest, 16)):016x}" != identity.digest:
                        raise ModelError(f"the journal has another digest for iteration {step}")
                    self.restore_exactly(weights, identity)
                except ModelError as error:
                    logger.warning("%s isn't used: %s", self.path(step), error)
                    if set_aside:
                        self._set_aside(step)
                else:
                    return identity
        return None

    def restore_exactly(self, weights: Weights, identity: SnapshotIdentity) -> None:
        """Load the masters of the snapshot with this identity.

        Raises:
            ModelError: there is no such snapshot, or its weights have another digest; nothing changed.
        """
        if self._identity(identity.step) != identity:
            raise ModelError(f"{self.path(identity.step)}: expected {identity}, got {self._identity(identity.step)}")
        path = self.path(identity.step)
        model, state = load_model(path), _optimizer_state(path)
        digest = f"{weights.digest_of(model, state):016x}"
        if digest != identity.digest:
            raise ModelError(f"its weights have digest {digest}, expected {identity.digest}: the file is damaged")
        weights.reset(model, state)

    def _set_aside(self, step: int) -> None:
        target = self._directory / f"unusable-checkpoint-{step}"
        try:
            shutil.rmtree(target, ignore_errors=True)
            self.path(step).rename(target)
        except OSError as error:
            logger.warning("%s can't be set aside: %s", self.path(step), error)

    def _identity(self, step: int) -> SnapshotIdentity:
        path = self.path(step) / _IDENTITY
        try:
            identity = SnapshotIdentity(**json.loads(path.read_text(encoding="utf-8")))
            if identity.step != step or not all(
                isinstance(text, str) for text in (identity.digest, identity.records_sha256)
            ):
                raise ValueError(f"it holds {identity}")
            int(identity.digest, 16)
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(f"{path} can't be read: {error}") from error
        return identity


def _optimizer_state(path: Path) -> dict[str, torch.Tensor]:
    file = path / _OPTIMIZER
    if not file.exists():
        return {}
    try:
        state: dict[str, torch.Tensor] = load_file(file)
        return state
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{file} can't be read: {error}") from error


def _remove(path: Path) -> None:
    shutil.rmtree(path)


def _records_sha256(records: Sequence[Record]) -> str:
    sha = hashlib.sha256()
    for record in records:
        data = record.to_bytes()
        sha.update(len(data).to_bytes(8, "little"))
        sha.update(data)
    return sha.hexdigest()
