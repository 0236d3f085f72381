"""The schedule `cosine` with transformers' names: `min_lr_rate` is the floor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from es_llm.schedules import cosine
from es_llm.schedules._warmup import require_floor

if TYPE_CHECKING:
    from es_llm.config import ESConfig


def factor(config: ESConfig, iteration: int, *, min_lr_rate: float, num_warmup_steps: int = 0) -> float:
    """See `es_llm.schedules.cosine.factor`."""
    floor = require_floor("min_lr_rate", min_lr_rate)
    return cosine.factor(config, iteration, num_warmup_steps=num_warmup_steps, floor=floor)
