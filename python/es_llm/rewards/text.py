"""The text of a completion, in either of the two forms that reward functions receive: text or messages, as in TRL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def completion_text(completion: str | Sequence[Mapping[str, Any]]) -> str:
    """The text of a plain completion, or the joined contents of a list of messages.

    Raises:
        TypeError: `completion` is neither.
    """
    if isinstance(completion, str):
        return completion
    return "".join(_content(message) for message in completion)


def _content(message: object) -> str:
    if isinstance(message, Mapping):
        return str(message.get("content") or "")
    kind = type(message).__name__
    raise TypeError(f"`completion` must be a string or a list of messages, got an item of type {kind}")
