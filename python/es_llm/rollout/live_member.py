"""Which member an engine's live weights are of. Engines get weights through it, so that nothing is written twice."""

from __future__ import annotations

import time
from typing import final

from es_llm._core import Member
from es_llm.model.weights import Weights


@final
class LiveMember:
    """Writes a member's live weights, unless they are written already. `seconds` is the time that writing took so far.

    Args:
        weights: those that the engine's targets belong to.
        run_seed: of the noise.
        sigma: scale of the noise.
    """

    def __init__(self, weights: Weights, *, run_seed: int, sigma: float) -> None:
        self._weights, self._run_seed, self._sigma = weights, run_seed, sigma
        self._written: tuple[int, int | None, int | None] | None = None
        self.seconds = 0.0

    def switch(self, member: Member | None) -> bool:
        """Make the live weights those of `member`, or without noise for None. Returns True if they were written: the
        engine must forget everything that it computed from the weights before, such as prefix caches."""
        wanted = (None, None) if member is None else (member.iteration, member.index)
        if self._written == (self._weights.writes, *wanted):
            return False
        start = time.perf_counter()
        if member is None:
            self._weights.unperturb()
        else:
            self._weights.perturb(member, run_seed=self._run_seed, sigma=self._sigma)
        self._written = (self._weights.writes, *wanted)
        self.seconds += time.perf_counter() - start
        return True
