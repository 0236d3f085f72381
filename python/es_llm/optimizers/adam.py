"""Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1) on the direction of an iteration.

    m <- beta1 * m + (1 - beta1) * g          v <- beta2 * v + (1 - beta2) * g * g
    theta <- theta + learning_rate * (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)

t is the number of the iteration, counted from 1. A weight moves by about `learning_rate` per iteration, whatever sigma
is: choose a much smaller rate than for SGD, whose rate includes the factor 1/sigma.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from es_llm.errors import ConfigError
from es_llm.optimizers import Optimizer, require_share, square_root

if TYPE_CHECKING:
    import torch

    from es_llm._core import Record
    from es_llm.config import ESConfig


class Adam(Optimizer):
    """Two state tensors: 8 bytes per trained weight.

    Args:
        beta1: of the mean of the directions, in [0, 1).
        beta2: of the mean of their squares, in [0, 1).
        epsilon: added to the root, > 0.
    """

    state_names = ("mean", "square")
    elementwise = True

    def __init__(
        self, config: ESConfig | None = None, *, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8
    ) -> None:
        super().__init__(config)
        self._betas = require_share("beta1", beta1), require_share("beta2", beta2)
        if not 0.0 < epsilon < math.inf:
            raise ConfigError(f"`epsilon` must be a finite number > 0, got {epsilon!r}")
        self._epsilon = epsilon

    def step(
        self, master: torch.Tensor, direction: torch.Tensor, record: Record, state: Mapping[str, torch.Tensor]
    ) -> None:
        """See `Optimizer`."""
        (beta1, beta2), t = self._betas, record.iteration + 1
        mean = state["mean"].mul_(beta1).add_(direction.mul(1.0 - beta1))
        square = state["square"].mul_(beta2).add_(direction.mul_(direction).mul_(1.0 - beta2))
        # Reciprocals: see `Optimizer` on divisions by a number.
        root = square_root(square.mul(1.0 / (1.0 - beta2**t))).add_(self._epsilon)
        master.add_(mean.mul(1.0 / (1.0 - beta1**t)).div_(root).mul_(record.learning_rate))


build = Adam
