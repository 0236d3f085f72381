"""What a training comes to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TrainOutput:
    """What `ESTrainer.train` returns. `metrics` is what `result.json` holds; answers are (prompt, completion), on the
    leading rank. `interrupted`: a signal ended the training after a record; the run's directory can be resumed."""

    global_step: int
    metrics: dict[str, Any]
    output_dir: str
    answers_before: list[tuple[str, str]] = field(default_factory=list)
    answers_after: list[tuple[str, str]] = field(default_factory=list)
    interrupted: bool = False

    @property
    def training_loss(self) -> float:
        """Not a number: Evolution Strategies have no loss. For code that prints transformers' `TrainOutput`."""
        return float("nan")
