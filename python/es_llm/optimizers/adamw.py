"""AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2): Adam with decoupled weight decay, theta <- theta -
learning_rate * weight_decay * theta before each step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

from es_llm.errors import ConfigError
from es_llm.optimizers.adam import Adam

if TYPE_CHECKING:
    import torch

    from es_llm._core import Record
    from es_llm.config import ESConfig


@final
class AdamW(Adam):
    """See `Adam`: the same state.

    Args:
        weight_decay: share of a weight that a rate of 1 would take away per iteration, >= 0. The default is that of
            `torch.optim.AdamW`.
        options: those of `Adam`.
    """

    def __init__(self, config: ESConfig | None = None, *, weight_decay: float = 0.01, **options: Any) -> None:
        super().__init__(config, **options)
        if not 0.0 <= weight_decay < math.inf:
            raise ConfigError(f"`weight_decay` must be a finite number >= 0, got {weight_decay!r}")
        self._weight_decay = weight_decay

    def step(
        self, master: torch.Tensor, direction: torch.Tensor, record: Record, state: Mapping[str, torch.Tensor]
    ) -> None:
        """See `Optimizer`."""
        master.mul_(1.0 - record.learning_rate * self._weight_decay)
        super().step(master, direction, record, state)


build = AdamW
