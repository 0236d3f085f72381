"""Types that several rooms share. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

RewardFunction = Callable[..., "Sequence[float | None]"]
"""Takes `prompts`, `completions`, `completion_ids` and every dataset column by keyword, as lists; one score per
completion, None for "no opinion" (TRL's contract)."""

Row = Mapping[str, Any]
"""One row of a data set: the key `prompt` and one key per column that the reward functions need."""

Message = dict[str, Any]
"""`{"role", "content"}`, both text, and what else a chat template may read: numbers, texts, lists and dicts."""

Prompt = str | list[Message]
"""Text, or messages for the tokenizer's chat template."""
