"""Reward functions in TRL's contract, and what may happen to them: see `scoring`, `pool` and `server`."""

from es_llm.rewards.marks import inline, set_level

__all__ = ["inline", "set_level"]
