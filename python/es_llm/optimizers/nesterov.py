"""Nesterov's momentum (Sutskever et al. 2013, as `torch.optim.SGD(nesterov=True)`).

m <- momentum * m + g, theta <- theta + learning_rate * (g + momentum * m).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from es_llm.optimizers.momentum import Momentum

if TYPE_CHECKING:
    import torch


@final
class Nesterov(Momentum):
    """See `Momentum`: the same state, and a step that looks one step of the momentum ahead."""

    def _towards(self, direction: torch.Tensor, momentum: torch.Tensor) -> torch.Tensor:
        return direction.add_(momentum.mul(self._momentum))


build = Nesterov
