"""Heavy-ball momentum: m <- momentum * m + g, theta <- theta + learning_rate * m (Polyak 1964, as in `torch.optim.SGD`
without dampening). A step is up to 1 / (1 - momentum) times as long as that of plain SGD."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from es_llm.optimizers import Optimizer, require_share

if TYPE_CHECKING:
    import torch

    from es_llm._core import Record
    from es_llm.config import ESConfig


class Momentum(Optimizer):
    """One state tensor: 4 bytes per trained weight.

    Args:
        momentum: share of the last step's momentum that stays, in [0, 1).
    """

    state_names = ("momentum",)
    elementwise = True

    def __init__(self, config: ESConfig | None = None, *, momentum: float = 0.9) -> None:
        super().__init__(config)
        self._momentum = require_share("momentum", momentum)

    def step(
        self, master: torch.Tensor, direction: torch.Tensor, record: Record, state: Mapping[str, torch.Tensor]
    ) -> None:
        """See `Optimizer`."""
        moved = state["momentum"].mul_(self._momentum).add_(direction)
        master.add_(self._towards(direction, moved).mul(record.learning_rate))

    def _towards(self, direction: torch.Tensor, momentum: torch.Tensor) -> torch.Tensor:
        """Where the step goes; `direction` may be overwritten."""
        return momentum


build = Momentum
