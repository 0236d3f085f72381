"""Rollouts of many members in one batch: all rows share the base weights, and each adds its own member's noise.

For low-rank members (EGGROLL, arXiv 2511.16652). Answers are those of the materialized weights W + s A B^T, up to
rounding. The live weights stay those without noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, final

import torch

from es_llm._core import Member
from es_llm.errors import ModelError
from es_llm.rollout.batched.check import require_right
from es_llm.rollout.batched.modules import RowModules
from es_llm.rollout.batched.noise import UnitNoise, require_batchable
from es_llm.rollout.engine import Completion, LiveMember, Sampling
from es_llm.rollout.engines.hf import HFEngine
from es_llm.rollout.memory import explain_out_of_memory, noise_bytes
from es_llm.types import Prompt

ROWS_PER_UNIT: Final = 32
"""Rows (members x prompts) of a unit: with 32 members and 2 prompts, two ranks share an iteration."""


@final
class BatchedEngine(HFEngine):
    """`HFEngine` whose `evaluate` decodes all members of a unit together. By default a unit has as many members as make
    about `ROWS_PER_UNIT` rows, an even number.

    Raises:
        ModelError: the decoder doesn't support the model.
    """

    def __init__(self, model: Any, tokenizer: Any, **options: Any) -> None:
        super().__init__(model, tokenizer, **options)
        if not self.uses_decoder:
            raise ModelError(
                f"engine 'batched': the kind of key-value cache of {type(model).__name__} isn't supported; use "
                "`--engine hf`"
            )
        self._noise: tuple[tuple[Member, ...], RowModules] | None = None

    def attach(self, live: LiveMember) -> None:
        """Get members' noise from the table of `live`.

        Raises:
            ConfigError: a parameter has noise that can't differ between rows.
            ModelError: a module's parameters can't be perturbed row by row.
        """
        require_batchable(live.table)
        super().attach(live)
        with torch.inference_mode():
            require_right(self._model, live.table, self._prompts.encode("The sum of 12 and 30 is 42."))

    def evaluate(
        self, members: Sequence[Member | None], prompts: Sequence[Prompt], sampling: Sampling | None = None
    ) -> list[list[Completion]]:
        """For each member, one completion per prompt; all members in one batch. Beside members, the model without noise
        is a member whose noise has the scale 0; alone, it runs as it is."""
        self._switch(None)
        perturbed = [member for member in members if member is not None]
        if not perturbed:
            return super().evaluate(members, prompts, sampling)
        numbers = iter(range(len(perturbed)))
        positions = [None if member is None else next(numbers) for member in members]
        count = len(prompts)
        with explain_out_of_memory(len(members) * count):
            modules = self._modules(perturbed)

        def decode(ids: Sequence[Sequence[int]], rows: Sequence[int]) -> list[list[int]]:
            groups = [row // count for row in rows]
            request = replace(
                self._chosen(ids, [row % count for row in rows], sampling),
                groups=groups,
                on_rows=lambda row_B: modules.use([positions[groups[row]] for row in row_B.tolist()]),
            )
            with modules.active():
                return self._decode(ids, request)

        found = self._complete([*prompts] * len(members), decode)
        return [found[index * count : (index + 1) * count] for index in range(len(members))]

    def bytes_needed(self, members: int, prompts: int, rows: int | None, sampling: Sampling | None) -> int | None:
        """See `SmallBatches`; with the noise of the unit's members."""
        if members == 0:
            return super().bytes_needed(0, prompts, rows, sampling)
        assert self._live is not None, "`attach` was called"
        batch, memory = self._batch(members, prompts, rows, sampling), self._model_memory()
        return memory.of_batch(batch) + noise_bytes(self._live.table, members, batch.slots)

    def _members_per_unit(self, prompts: int) -> int:
        return 2 * max(1, ROWS_PER_UNIT // (2 * prompts))

    def _modules(self, members: Sequence[Member]) -> RowModules:
        """The model's modules with the noise of these members; kept for the next prompts of the same members."""
        key = tuple(members)
        if self._noise is None or self._noise[0] != key:
            assert self._live is not None, "`attach` was called"
            device = self._model.get_input_embeddings().weight.device
            self._noise = key, RowModules(self._model, UnitNoise(self._live.table, members, device))
        return self._noise[1]


build = BatchedEngine
"""Builds the engine named `batched`."""
