"""The noise of the members of a unit, laid out for modules that add it row by row.

Low-rank noise of a matrix comes as factors, a vector has dense noise. The antithetic members of a pair share both. They
come from the addresses that the update uses, so the update knows nothing of batches.

Legend: P pairs of the unit, B rows in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch

from es_llm._core import LowRank, Member, Noise
from es_llm.errors import ConfigError
from es_llm.model.table import ParameterTable
from es_llm.noise.backend import backend_for
from es_llm.rollout.batched.factors import Factors, Rows, factors_of


@final
class UnitNoise:
    """The noise of some members of one iteration: the factors of `matrices`, and `vectors` (P, n), by parameter.

    Args:
        table: the trained parameters and their noise, see `require_batchable`.
        members: of one iteration, at least one.
        device: of the model.
    """

    def __init__(self, table: ParameterTable, members: Sequence[Member], device: torch.device) -> None:
        pairs = list(dict.fromkeys(member.pair for member in members))
        noises = [Noise(members[0].run_seed, members[0].iteration, pair) for pair in pairs]
        backend = backend_for(device)
        self.matrices: dict[str, Factors] = {}
        self.vectors: dict[str, torch.Tensor] = {}
        for parameter in table.parameters:
            if isinstance(parameter.perturbed, LowRank):
                self.matrices[parameter.name] = factors_of(backend, noises[0], parameter.perturbed, pairs)
            else:
                drawn = torch.empty(len(pairs), parameter.elements, device=device)
                for out, noise in zip(drawn, noises, strict=True):
                    backend.fill(out, noise, parameter.whole)
                self.vectors[parameter.name] = drawn
        index = {pair: number for number, pair in enumerate(pairs)}
        self._members = [(index[member.pair], member.sign * member.sigma) for member in members]
        self._device = device

    def rows(self, members: Sequence[int | None]) -> Rows:
        """The rows of a batch, given the index of each row's member; None: a row without noise."""
        pairs, scales = zip(*((0, 0.0) if member is None else self._members[member] for member in members), strict=True)
        return Rows(
            torch.tensor(pairs, device=self._device),
            torch.tensor(scales, dtype=torch.float32, device=self._device),
        )


def require_batchable(table: ParameterTable) -> None:
    """Check that each parameter has noise that can differ between the rows of a batch.

    Raises:
        ConfigError: a parameter of more than one dimension has dense noise; names the first.
    """
    for parameter in table.parameters:
        if not isinstance(parameter.perturbed, LowRank) and len(parameter.shape) > 1:
            raise ConfigError(
                f"engine 'batched': `{parameter.name}` of shape {list(parameter.shape)} has dense noise, which needs "
                "separate weights for each member; use `--perturbation low_rank`, or `--engine hf`, or leave the "
                "parameter out with `--frozen`"
            )
