"""Optimizers by name: how the masters move along the direction of an iteration. A new optimizer is one new file.

    direction   g = (1/N) * sum over the pairs p of coefficient_p * noise_p          (the same for every optimizer)
    step        master, state = optimizer.step(master, g, record, state)             (its own rule)

The coefficients are shaped fitness (`Record.coefficients`), N is the number of members, and 1/sigma is folded into
the learning rate as in Qiu et al. (arXiv 2509.24372). An optimizer in another package is found by an entry point in
the group `es_llm.optimizers`, or by `file.py:NAME`. Its state is float32 tensors, one for each name and
each trained tensor. Replay rebuilds the state, snapshots save it, ranks compare it, and it is reset with the masters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Final

from es_llm.errors import ConfigError
from es_llm.plugins import names_in, resolve

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from es_llm._core import Record
    from es_llm.config import ESConfig


class Optimizer(ABC):
    """A rule that moves the masters. A run has one instance for all tensors.

    Every machine must compute the same bits. So a rule uses only additions, multiplications, divisions and square roots
    of torch, each rounded separately, and no reduction over a tensor.
    """

    state_names: ClassVar[tuple[str, ...]] = ()
    """Names of the state tensors. Each one starts as zeros, in the shape of the master."""

    def __init__(self, config: ESConfig | None = None) -> None:
        self.config = config

    @abstractmethod
    def step(
        self, master: torch.Tensor, direction: torch.Tensor, record: Record, state: Mapping[str, torch.Tensor]
    ) -> None:
        """Move `master` by one iteration and update the tensors of `state`. Both change in their own memory.

        Args:
            master: float32 weights of one tensor.
            direction: g of the tensor, float32; may be overwritten.
            record: the iteration; `record.learning_rate` is its rate.
            state: the tensor's state by name.
        """

    def fused_coefficients(self, record: Record) -> NDArray[np.float32] | None:
        """(P,) the factor of each pair's noise, if the step is exactly the sum of factor * noise: then one pass over
        the master computes direction and step together. None: `step` needs the direction."""
        return None


BUILTIN: Final = names_in(__name__, __path__, "build")
"""Name of an optimizer of this package -> where it is."""


def load_optimizer(name: str, config: ESConfig) -> Optimizer:
    """The optimizer of a name, for a run with these options.

    Raises:
        ConfigError: there is no such optimizer, its file can't be used, or it is no `Optimizer`.
    """
    made = resolve("optimizer", name, BUILTIN, attribute="build")(config)
    if not isinstance(made, Optimizer):
        raise ConfigError(f"optimizer {name!r} must make an `es_llm.optimizers.Optimizer`, got {type(made).__name__}")
    return made
