"""What a run consists of while it runs, on one rank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from es_llm._core import Population
from es_llm.config import ESConfig
from es_llm.model.weights import Weights
from es_llm.rewards.batch import TrainerState
from es_llm.rewards.scoring import RewardSet
from es_llm.rollout.engine import Completion, RolloutEngine
from es_llm.team import Team
from es_llm.types import Row


class Prompts(Protocol):
    """The rows of a run, by iteration."""

    per_iteration: int

    def batch(self, iteration: int) -> list[Row]:
        """The B rows of `iteration`."""

    def cursor(self, iteration: int) -> int:
        """Rows consumed before `iteration`."""

    def epoch(self, iteration: int) -> float:
        """How often all rows were consumed before `iteration`; 0 where nobody knows how many there are."""

    def first(self) -> Row:
        """A row of the data, which has the columns of all."""

    def fingerprint(self, used: Callable[[str], bool]) -> dict[str, object]:
        """By which resume knows the data again; `used`: whether something may read a column.

        Raises:
            ConfigError: see `fingerprint`.
        """


@dataclass(kw_only=True)
class RunState:
    """Everything an iteration needs."""

    config: ESConfig
    team: Team
    population: Population
    weights: Weights
    engine: RolloutEngine
    rewards: RewardSet
    prompts: Prompts

    def unit_rows(self, rows: int) -> int:
        """Prompts of one unit of work out of so many; all where a reward sees a member's completions together."""
        return max(1, rows) if self.rewards.set_level else self.config.prompts_per_unit

    def complete(self, rows: Sequence[Row]) -> list[Completion]:
        """Completions of a unit's rows on the live weights, generated `prompts_per_unit` at a time."""
        size = self.config.prompts_per_unit
        prompts = [row["prompt"] for row in rows]
        batches = (prompts[start : start + size] for start in range(0, len(prompts), size))
        return [completion for batch in batches for completion in self.engine.evaluate(batch)]

    def state(self, step: int) -> TrainerState:
        """What reward functions hear of the run."""
        config = self.config
        return TrainerState(
            global_step=step,
            max_steps=config.max_steps,
            epoch=self.prompts.epoch(step),
            logging_steps=config.logging_steps,
            eval_steps=config.eval_steps,
            save_steps=config.save_steps,
            train_batch_size=self.prompts.per_iteration,
        )
