"""Snapshots: master weights after some iterations, in Hugging Face layout, as `checkpoint-<step>` in a run's directory.

The journal is the checkpoint; a snapshot saves a resume the time to replay what came before. It is used only if it
belongs to the journal's own records and its weights have the digest that was written down, so one that is damaged,
unfinished or of another run does no harm. Each appears whole, and older ones go only after that.
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

from es_llm._core import Record
from es_llm.checkpoint.export import export_model
from es_llm.errors import ModelError
from es_llm.model.loading import load_model
from es_llm.model.weights import Weights

logger = logging.getLogger(__name__)

_DIRECTORY: Final = re.compile(r"checkpoint-([1-9][0-9]*)")
_HIDDEN: Final = re.compile(r"\.checkpoint-[1-9][0-9]*\.(new|old)")
_MARK: Final = "es_llm_snapshot.json"


@dataclass(frozen=True)
class Mark:
    """What a snapshot is of: the digest of its masters as 16 hexadecimal digits, and the SHA-256 of the records that
    led to them."""

    step: int
    digest: str
    records_sha256: str


def is_snapshot(path: Path) -> bool:
    """Whether it is the directory of a snapshot."""
    return _DIRECTORY.fullmatch(path.name) is not None and (path / _MARK).is_file()


class Snapshots:
    """The snapshots in the directory of a run."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def steps(self) -> list[int]:
        """Of which steps there are snapshots, ascending."""
        if not self._directory.is_dir():
            return []
        found = (_DIRECTORY.fullmatch(path.name) for path in self._directory.iterdir() if path.is_dir())
        return sorted(int(match[1]) for match in found if match)

    def path(self, step: int) -> Path:
        """The directory of one."""
        return self._directory / f"checkpoint-{step}"

    def write(self, weights: Weights, model: Any, tokenizer: Any, records: Sequence[Record]) -> Mark:
        """Save the masters of `weights`, those of `model` after `records`.

        Raises:
            ModelError: the disk refuses; older snapshots are still there.
        """
        mark = Mark(len(records), f"{weights.digest():016x}", _records_sha256(records))
        state = weights.master_state(model)
        export_model(self.path(mark.step), model, tokenizer, state=state, notes={_MARK: asdict(mark)})
        return mark

    def keep(self, step: int, limit: int, kept: int | None = None) -> None:
        """Delete all but the newest `limit` ones up to `step` and that of the step `kept`; later ones, of records that
        this run hasn't made yet, stay. An error of the disk is logged."""
        known = [known for known in self.steps() if known <= step and known != kept]
        try:
            for old in known[:-limit]:
                # Under its own name a snapshot is whole or not there.
                self.path(old).rename(self._directory / f".checkpoint-{old}.old")
        except OSError as error:
            logger.warning("an older snapshot can't be deleted: %s", error)
        self.tidy()

    def tidy(self) -> None:
        """Delete what a kill left unfinished, of a snapshot or of its deletion. An error of the disk is logged."""
        try:
            for path in self._directory.iterdir():
                if _HIDDEN.fullmatch(path.name):
                    _remove(path)
        except OSError as error:
            logger.warning("an unfinished snapshot can't be deleted: %s", error)

    def restore(
        self, weights: Weights, records: Sequence[Record], digests: Mapping[int, int], *, set_aside: bool = False
    ) -> Mark | None:
        """Make the masters those of the newest snapshot that fits the journal's records and digests; None: there is
        none, and nothing changed. With `set_aside` those that don't fit get another name, and count no more."""
        for step in reversed(self.steps()):
            if step <= len(records):
                expected = _records_sha256(records[:step])
                try:
                    mark = self._mark(step)
                    if mark.records_sha256 != expected:
                        raise ModelError("it is of other records than the journal's")
                    if f"{digests.get(step - 1, int(mark.digest, 16)):016x}" != mark.digest:
                        raise ModelError(f"the journal has another digest for step {step}")
                    self.restore_exactly(weights, mark)
                except ModelError as error:
                    logger.warning("%s isn't used: %s", self.path(step), error)
                    if set_aside:
                        self._set_aside(step)
                else:
                    return mark
        return None

    def restore_exactly(self, weights: Weights, mark: Mark) -> None:
        """Make the masters those of the snapshot with this mark.

        Raises:
            ModelError: there is none with this mark, or its weights have another digest; nothing changed.
        """
        if self._mark(mark.step) != mark:
            raise ModelError(f"{self.path(mark.step)}: expected {mark}, got {self._mark(mark.step)}")
        model = load_model(self.path(mark.step))
        digest = f"{weights.digest_of(model):016x}"
        if digest != mark.digest:
            raise ModelError(f"its weights have digest {digest}, expected {mark.digest}: the file is damaged")
        weights.reset(model)

    def _set_aside(self, step: int) -> None:
        place = self._directory / f"unusable-checkpoint-{step}"
        try:
            shutil.rmtree(place, ignore_errors=True)
            self.path(step).rename(place)
        except OSError as error:
            logger.warning("%s can't be set aside: %s", self.path(step), error)

    def _mark(self, step: int) -> Mark:
        path = self.path(step) / _MARK
        try:
            mark = Mark(**json.loads(path.read_text(encoding="utf-8")))
            if mark.step != step or not all(isinstance(text, str) for text in (mark.digest, mark.records_sha256)):
                raise ValueError(f"it says {mark}")
            int(mark.digest, 16)
        except (OSError, ValueError, TypeError) as error:
            raise ModelError(f"{path} can't be read: {error}") from error
        return mark


def _remove(path: Path) -> None:
    shutil.rmtree(path)


def _records_sha256(records: Sequence[Record]) -> str:
    sha = hashlib.sha256()
    for record in records:
        data = record.to_bytes()
        sha.update(len(data).to_bytes(8, "little"))
        sha.update(data)
    return sha.hexdigest()
