"""What the trainer says to the reward server. The answers are (number of the request, scores)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from es_llm.rewards.batch import Batch


@dataclass(frozen=True)
class Start:
    """The first message to the server. `functions`: name -> (kind "reference", text) or (kind "pickle", bytes)."""

    functions: dict[str, tuple[str, Any]]
    path: list[str]
    workers: int
    limit_s: float
    memory_mb: int


@dataclass(frozen=True)
class Request:
    """Score a batch by a function; `together`: by one call for all of it."""

    number: int
    name: str
    batch: Batch
    together: bool
