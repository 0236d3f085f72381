"""`metrics.jsonl`: one JSON object per line, in step order, also after a crash and a resume."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from es_llm.errors import JournalError


class MetricsLog:
    """Appends lines; a line is in the file when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one object; its key `step` orders it.

        Raises:
            JournalError: the disk refuses it; the journal is not touched.
        """
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(_encode(line))
        except OSError as error:
            rest = "the journal beside it is safe" if self._path.parent.is_dir() else "its directory is gone"
            raise JournalError(f"{str(self._path)!r} can't be written: {error}; {rest}") from error

    def rewind(self, steps: int, missing: Callable[[int], Mapping[str, Any]]) -> None:
        """Make the log agree with a journal of `steps` iterations, before a resumed run goes on.

        Lines after `steps` and torn lines are dropped; a step without a line gets `missing(step)`.
        """
        kept, logged = [], set()
        for line in self._read():
            # A leader that slept through its successor's first steps may have logged one again.
            if line["step"] <= steps and not ("reward" in line and line["step"] in logged):
                kept.append(line)
                logged |= {line["step"]} if "reward" in line else set()
        kept += [dict(missing(step)) for step in range(1, steps + 1) if step not in logged]
        kept.sort(key=lambda line: line["step"])
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        try:
            temporary.write_text("".join(map(_encode, kept)), encoding="utf-8")
            os.replace(temporary, self._path)
        except OSError as error:
            raise JournalError(f"{str(self._path)!r} can't be written: {error}") from error

    def _read(self) -> list[dict[str, Any]]:
        if not self._path.exists():
            return []
        lines = []
        for text in self._path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                lines.append(line)
        return lines


def _encode(line: Mapping[str, Any]) -> str:
    """One line; a figure that is NaN or infinite is null, since JSON has neither."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in line.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"
