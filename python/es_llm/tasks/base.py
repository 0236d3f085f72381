"""What a task is: rows to train and evaluate on, and functions that score completions.

Knows nothing about models, tokenizers or the optimiser. A row is a mapping with the key `prompt` (str) and
one key per column that the functions need; the functions receive each column as a list, in TRL's manner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from es_llm.errors import ConfigError
from es_llm.types import RewardFunction, Row


@dataclass(frozen=True, kw_only=True)
class Task:
    """A named problem. Metrics have the contract of rewards; their figure is the mean over completions."""

    name: str
    train: Sequence[Row]
    eval: Sequence[Row]
    reward_funcs: tuple[RewardFunction, ...]
    metric_funcs: Mapping[str, RewardFunction] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what can be checked in constant time.

        Raises:
            ConfigError: no reward function, or a first row without a text `prompt`.
        """
        if not self.reward_funcs:
            raise ConfigError(f"task `{self.name}`: `reward_funcs` must hold at least one function, got none")
        for split, rows in (("train", self.train), ("eval", self.eval)):
            if len(rows) and not isinstance(rows[0].get("prompt"), str):
                keys = sorted(rows[0])
                raise ConfigError(
                    f"task `{self.name}`: row 0 of `{split}` must have a string `prompt`, got keys {keys}"
                )
