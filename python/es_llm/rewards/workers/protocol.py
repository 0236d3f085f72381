"""The messages between the trainer, the reward server and its workers, as pickles.

The trainer sends a `Start` and then `BatchRequest`s; the server answers (number of the request, result). The server
sends `PartRequest`s to its workers; a worker answers (result, seconds that it took).

Pickles are made by cloudpickle, since no other format carries closures and classes of a script or notebook. They are
read only from sockets between processes of this run, never from a file, a download or a model's text. A process that
can write to these sockets runs the user's functions already.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

from es_llm.errors import ConfigError
from es_llm.rewards.batch import Batch


@dataclass(frozen=True, kw_only=True)
class WorkerLimits:
    """How many workers there are, and what one may use.

    workers: processes that call reward functions; 0: functions are called in the trainer's process, without limits.
    timeout_s: seconds for one completion (for a set-level function: for one call); 0: no limit.
    memory_mb: megabytes for a worker beyond its use at its start; 0: no limit.
    """

    workers: int = 0
    timeout_s: float = 0.0
    memory_mb: int = 0


@dataclass(frozen=True)
class Start:
    """The first message to the server, and to a worker that isn't forked from it.

    functions: name -> (kind "reference", text) or (kind "pickle", bytes).
    path: `sys.path` of the trainer.
    limits: of the workers.
    """

    functions: dict[str, tuple[str, Any]]
    path: list[str]
    limits: WorkerLimits


@dataclass(frozen=True)
class BatchRequest:
    """Call the function `name` for `size` completions.

    together: one call returns one float for all completions.
    batch: the pickled `Batch`. If it can't be read, the server still knows the request's number and size.
    """

    number: int
    name: str
    size: int
    together: bool
    batch: bytes


@dataclass(frozen=True)
class PartRequest:
    """Call the function `name` for the completions of a part of a batch."""

    name: str
    together: bool
    batch: Batch


def pack(message: Any) -> bytes:
    """The message as bytes."""
    import cloudpickle

    data: bytes = cloudpickle.dumps(message)
    return data


def unpack(data: bytes) -> Any:
    """The message that a process of this run packed. No other function reads pickles."""
    return pickle.loads(data)


def pack_batch(batch: Batch) -> bytes:
    """The batch as bytes."""
    try:
        return pack(batch)
    except Exception as error:
        for name, values in {"prompts": batch.prompts, **batch.columns}.items():
            try:
                pack(values)
            except Exception as own:
                raise ConfigError(
                    f"column {name!r} of the data can't be sent to reward workers ({type(own).__name__}: {own}); "
                    "leave it out, or call the functions in the trainer's process with `reward_workers` 0"
                ) from own
        raise ConfigError(f"a batch can't be sent to reward workers: {error}") from error
