"""What a run consists of while it runs, on one rank."""

from __future__ import annotations

from dataclasses import dataclass

from es_llm._core import Population
from es_llm.config import ESConfig
from es_llm.model.weights import Weights
from es_llm.rewards.scoring import RewardSet
from es_llm.rollout.engine import RolloutEngine
from es_llm.team import Team
from es_llm.trainer.data import PromptOrder


@dataclass(kw_only=True)
class RunState:
    """Everything an iteration needs."""

    config: ESConfig
    team: Team
    population: Population
    weights: Weights
    engine: RolloutEngine
    rewards: RewardSet
    prompts: PromptOrder
