"""Rises along a line, then stays, as transformers' `constant_with_warmup`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from es_llm.schedules._warmup import warmed_up

if TYPE_CHECKING:
    from es_llm.config import ESConfig


def factor(config: ESConfig, iteration: int, *, num_warmup_steps: int) -> float:
    """1 / num_warmup_steps in the first iteration, 1 from iteration `num_warmup_steps` on."""
    return warmed_up(iteration, num_warmup_steps)
