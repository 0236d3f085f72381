"""Falls along a line, as transformers' `linear`: after the last iteration it would be 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from es_llm.schedules._warmup import progress, warmed_up

if TYPE_CHECKING:
    from es_llm.config import ESConfig


def factor(config: ESConfig, iteration: int, *, num_warmup_steps: int = 0) -> float:
    """1 at the end of the warm-up, 1 / iterations in the last iteration."""
    return warmed_up(iteration, num_warmup_steps) * (1.0 - progress(iteration, num_warmup_steps, config.max_steps))
