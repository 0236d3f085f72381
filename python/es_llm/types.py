"""Types that several packages share. Imports only the standard library."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

RewardFunction = Callable[..., "Sequence[float | None]"]
"""Takes `prompts`, `completions`, `completion_ids` and every dataset column by keyword, as lists. Returns one reward
per completion, or None for a completion that it does not grade (TRL's contract)."""

Row = Mapping[str, Any]
"""One row of a data set: the key `prompt` and one key per column that the reward functions need."""

Message = dict[str, Any]
"""`{"role", "content"}`, both text, and other fields for a chat template: numbers, texts, lists and dicts."""

Prompt = str | list[Message]
"""Text, or messages for the tokenizer's chat template."""
