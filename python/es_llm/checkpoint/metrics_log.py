"""`metrics.jsonl`: one JSON object per line, in the order of steps, also after a crash and a resume."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from es_llm._core import Record
from es_llm.checkpoint.run_directory import write_whole
from es_llm.errors import JournalError


class MetricsLog:
    """Appends lines; a line is in the file when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, line: Mapping[str, Any]) -> None:
        """Append one object; its key `step` orders it."""
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(_encode(line))
        except OSError as error:
            raise JournalError(f"{str(self._path)!r} can't be written: {error}") from error

    def rewind(
        self,
        steps: int,
        missing: Callable[[int], Mapping[str, Any]],
        evaluations: Mapping[int, Mapping[str, Any]],
    ) -> None:
        """Make the log agree with a journal of `steps` iterations and these evaluations (step -> line).

        Other lines and torn lines are dropped. A step without a line gets `missing(step)`, an evaluation without a line
        gets the given one. Of two lines for one step, such as those of two leaders, the first one is kept.
        """
        trained: dict[int, dict[str, Any]] = {}
        evaluated: dict[int, dict[str, Any]] = {}
        for line in self._read():
            if line["step"] <= steps:
                (trained if "reward" in line else evaluated).setdefault(line["step"], line)
        kept = []
        for step in range(steps + 1):
            if step > 0:
                kept.append(trained.get(step) or dict(missing(step)))
            if step in evaluations:
                kept.append(evaluated.get(step) or dict(evaluations[step]))
        write_whole(self._path, "".join(map(_encode, kept)))

    def total(self, name: str) -> float:
        """Sum of a metric over all lines that have it."""
        return float(sum(line[name] for line in self._read() if isinstance(line.get(name), (int, float))))

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


def record_metrics(record: Record) -> dict[str, Any]:
    """The metrics of an iteration that its record holds. A resumed run writes missing lines of its log from them."""
    fitness = np.array([value for value in record.fitness if value is not None], np.float64)
    if not len(fitness):
        fitness = np.zeros(1)
    return {
        "step": record.iteration + 1,
        "reward": float(fitness.mean()),
        "reward_std": float(fitness.std()),
        "fitness/max": float(fitness.max()),
        "fitness/min": float(fitness.min()),
        "sigma": record.sigma,
        "learning_rate": record.learning_rate,
    }


def _encode(line: Mapping[str, Any]) -> str:
    """One line. NaN and infinities become null, since JSON has neither."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in line.items()
    }
    return json.dumps(finite, allow_nan=False) + "\n"


def evaluation_metrics(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of an evaluation as they are logged."""
    return {f"eval_{name}": value for name, value in metrics.items()}
