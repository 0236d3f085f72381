"""Plain gradient ascent, as in Qiu et al. (arXiv 2509.24372, algorithm 2): theta <- theta + learning_rate * g."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, final

from es_llm.optimizers import Optimizer

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from es_llm._core import Record


@final
class SGD(Optimizer):
    """The default optimizer: no state, and one fused pass over each tensor for all pairs."""

    def step(
        self, master: torch.Tensor, direction: torch.Tensor, record: Record, state: Mapping[str, torch.Tensor]
    ) -> None:
        """master += learning_rate * direction. The fused pass rounds differently."""
        master.add_(direction.mul_(record.learning_rate))

    def fused_coefficients(self, record: Record) -> NDArray[np.float32]:
        """f32(learning_rate / N * coefficient), rounded once."""
        return record.sgd_coefficients()


build = SGD
