"""Reward functions by name, as `--reward_funcs` gives them: see `es_llm.plugins`."""

from __future__ import annotations

from pathlib import Path

from es_llm import plugins
from es_llm.errors import RewardError
from es_llm.types import RewardFunction


def load_reward(name: str) -> RewardFunction:
    """Import one reward function."""
    function: RewardFunction = plugins.resolve("reward", name, error=RewardError)
    if not callable(function):
        raise RewardError(f"reward {name!r} must be callable, got {function!r}")
    return function


def file_of(name: str) -> Path | None:
    """The file that holds the reward function of this name; None if there is none."""
    return plugins.file_of("reward", name)
