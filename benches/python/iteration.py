"""Whole iterations for `rollout.py`: the method as published, rewritten for one process, and ours.

The fitness of a member is its number: rewards cost nothing here, and equal ones would leave the weights as they are.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from peer import PeerLoop, peer_noise

from es_llm import _core
from es_llm.model.table import ParameterTable
from es_llm.model.weights import Weights
from es_llm.rollout import load_engine
from es_llm.rollout.decoding import generate
from es_llm.rollout.engine import LiveMember

MEMBERS: Final = 32
LEARNING_RATE: Final = 1e-3


class PublishedIteration:
    """Perturb, generate and subtract for each member; then one pass over the weights per member (arXiv 2509.24372)."""

    def __init__(self, ways: Any) -> None:
        tokens = ways.setting.tokens
        engine: Any = ways.without_end(load_engine("hf", ways.model, ways.tokenizer, max_completion_length=tokens))
        self._model, self._request, self._sigma = ways.model, engine._request, ways.setting.sigma
        self._prompts = ways.prompts[: max(1, len(ways.prompts) // MEMBERS)]
        self._loop = PeerLoop(ways.model, sigma=ways.setting.sigma)
        self._before = [weight.detach().clone() for weight in self._loop.weights[:4]]

    @torch.no_grad()
    def run(self) -> None:
        """One iteration."""
        for seed in range(MEMBERS):
            self._add(seed, self._sigma)
            generate(self._model, self._prompts, self._request)
            self._add(seed, -self._sigma)
        fitness = torch.arange(MEMBERS, dtype=torch.float32)
        z = ((fitness - fitness.mean()) / fitness.std()).tolist()
        self._loop.update(list(range(MEMBERS)), [LEARNING_RATE / MEMBERS * value for value in z])

    def check(self) -> None:
        """The weights have moved."""
        after = self._loop.weights[:4]
        assert any(not torch.equal(a, b) for a, b in zip(self._before, after, strict=True))

    def _add(self, seed: int, scale: float) -> None:
        for weight in self._loop.weights:
            weight.add_(peer_noise(weight, seed), alpha=scale)


class OurIteration:
    """Ask, evaluate, tell and update."""

    def __init__(self, ways: Any, engine: str, perturbation: str) -> None:
        tokens = ways.setting.tokens
        self._engine: Any = load_engine(engine, ways.model, ways.tokenizer, max_completion_length=tokens)
        options = {"rank": 1} if perturbation == "low_rank" else {}
        table = ParameterTable.from_module(ways.model, perturbation=perturbation, **options)
        self._weights = Weights(ways.model, table, targets=self._engine.targets())
        self._engine.attach(LiveMember(self._weights))
        ways.without_end(self._engine)
        share = max(1, len(ways.prompts) // MEMBERS)
        self._prompts = [ways.tokenizer.decode(ids) for ids in ways.prompts[:share]]
        self._population = _core.Population(run_seed=1, population_size=MEMBERS, antithetic=True)
        self._sigma, self._tokens, self._together = ways.setting.sigma, tokens, engine == "batched"
        self._before = [master.clone() for master in self._weights.master[:4]]

    def run(self) -> None:
        """One iteration."""
        members = self._population.ask(sigma=self._sigma)
        units = [members] if self._together else [[member] for member in members]
        found = [answers for unit in units for answers in self._engine.evaluate(unit, self._prompts)]
        answers = [[list(completion.token_ids) for completion in own] for own in found]
        assert all(len(tokens) == self._tokens for own in answers for tokens in own), "an answer ended early"
        record = self._population.tell(
            [float(n) for n in range(MEMBERS)], sigma=self._sigma, learning_rate=LEARNING_RATE
        )
        self._weights.update(record)

    def check(self) -> None:
        """The weights have moved."""
        after = self._weights.master[:4]
        assert any(not torch.equal(a, b) for a, b in zip(self._before, after, strict=True))
