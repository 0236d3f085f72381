"""The parts of a run on one rank, and the work on a unit: generate, and start the next unit in advance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeAlias, TypeVar

from es_llm._core import Member, Population
from es_llm.config import ESConfig
from es_llm.data.order import PromptOrder
from es_llm.data.stream import PromptStream
from es_llm.model.weights import Weights
from es_llm.noise.streams import TRAINING_SAMPLES
from es_llm.rewards.batch import Batch, TrainerState
from es_llm.rewards.reward_set import RewardSet
from es_llm.rollout.checks import checked_completions
from es_llm.rollout.engine import Completion, LiveMember, RolloutEngine, Sampling
from es_llm.team import Team
from es_llm.types import Row

Begun = TypeVar("Begun")
Prompts: TypeAlias = PromptOrder | PromptStream
"""The rows that iterations train on."""
TRACED_PROMPTS: Final = 8
"""Prompts of an iteration for which members' answers are compared with those of the unperturbed model."""


def training_sampling(config: ESConfig) -> Sampling | None:
    """How the completions of an iteration are chosen, without their addresses; None: greedy."""
    if config.temperature == 0 and config.repetition_penalty == 1:
        return None
    return Sampling(
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        min_p=config.min_p,
        repetition_penalty=config.repetition_penalty,
        seed=config.seed,
        stream=TRAINING_SAMPLES,
    )


@dataclass(kw_only=True)
class RunState:
    """Everything that the work on a unit needs."""

    config: ESConfig
    team: Team
    population: Population
    weights: Weights
    live: LiveMember
    engine: RolloutEngine
    rewards: RewardSet
    prompts: Prompts

    def unit_rows(self, rows: int) -> int:
        """Prompts per unit for `rows` prompts; all of them for set-level rewards."""
        return max(1, rows) if self.rewards.set_level else self.config.prompts_per_unit

    @property
    def joins_reference(self) -> bool:
        """True if the unperturbed model answers the compared prompts in the first unit, as one member more, and not in
        a unit of its own: units have several members, and no other prompts than those that are compared."""
        rows = self.prompts.per_iteration
        prompts = min(self.unit_rows(rows), rows * self.config.num_generations)
        return self.engine.members_per_unit > 1 and prompts <= TRACED_PROMPTS

    def complete(
        self, members: Sequence[Member | None], rows: Sequence[Row], sampling: Sampling | None = None
    ) -> list[list[Completion]]:
        """For each member, its completions of a unit's rows, generated `prompts_per_unit` at a time: greedy, or as
        `sampling` says."""
        size = self.config.prompts_per_unit
        prompts = [row["prompt"] for row in rows]
        found: list[list[Completion]] = [[] for _ in members]
        for start in range(0, len(prompts), size):
            asked = prompts[start : start + size]
            if sampling is None:
                given = self.engine.evaluate(members, asked)
            else:
                drawn = replace(sampling, addresses=sampling.addresses[start : start + size])
                given = self.engine.evaluate(members, asked, drawn)
            parts = checked_completions(self.config.engine, given, len(members), len(asked))
            for own, part in zip(found, parts, strict=True):
                own.extend(part)
        return found

    def batch(self, rows: Sequence[Row], completions: Sequence[Completion], step: int) -> Batch:
        """What reward functions get of completions after `step` iterations: one completion per row."""
        config = self.config
        state = TrainerState(
            global_step=step,
            max_steps=config.max_steps,
            epoch=self.prompts.epoch(step),
            logging_steps=config.logging_steps,
            eval_steps=config.eval_steps,
            save_steps=config.save_steps,
            train_batch_size=self.prompts.per_iteration,
        )
        return Batch.of(rows, [each.text for each in completions], [each.token_ids for each in completions], state)


class Prefetcher(Generic[Begun]):
    """Returns the work on a unit, and starts the next unit in advance."""

    def __init__(self, begin: Callable[[int], Begun], upcoming: Callable[[], int | None]) -> None:
        self._begin, self._upcoming = begin, upcoming
        self._begun: dict[int, Begun] = {}

    def take(self, unit: int) -> Begun:
        """The unit, begun; then the next one is begun too, if it is known."""
        mine = self._begun.pop(unit) if unit in self._begun else self._begin(unit)
        self._begun.clear()  # a unit that was begun in vain: another rank was faster
        following = self._upcoming()
        if following is not None and following != unit:
            self._begun[following] = self._begin(following)
        return mine
