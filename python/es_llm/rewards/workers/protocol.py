"""What the trainer says to the reward server, and what the server says to its workers, as pickles.

By cloudpickle: closures and classes of a script or a notebook travel with their instances, which no other format
does. It only ever reads what processes of this run wrote to each other over their own sockets, never a file, a
download or a model's words; who can write there runs the user's functions already. The server answers (number of the
request, scores); a worker answers (scores, seconds that they took).
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

from es_llm.errors import ConfigError
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
    """Score `size` completions by a function; `together`: by one call for all. `batch`: a pickled `Batch`, apart, so
    that one that can't be read has a number and a size all the same."""

    number: int
    name: str
    size: int
    together: bool
    batch: bytes


@dataclass(frozen=True)
class Task:
    """The same for a worker."""

    name: str
    together: bool
    batch: Batch


def packed(value: Any) -> bytes:
    """Anything that can travel."""
    import cloudpickle

    data: bytes = cloudpickle.dumps(value)
    return data


def unpacked(data: bytes) -> Any:
    """The other way round: what a process of this run packed. The one place where a pickle is read."""
    return pickle.loads(data)


def packed_batch(batch: Batch) -> bytes:
    """A batch that can travel.

    Raises:
        ConfigError: a column can't; names it.
    """
    try:
        return packed(batch)
    except Exception as error:
        for name, values in {"prompts": batch.prompts, **batch.columns}.items():
            try:
                packed(values)
            except Exception as own:
                raise ConfigError(
                    f"column {name!r} of the data can't be sent to reward workers ({type(own).__name__}: {own}); "
                    "leave it out, or call the functions in the trainer's process with `reward_workers` 0"
                ) from own
        raise ConfigError(f"a batch can't be sent to reward workers: {error}") from error
