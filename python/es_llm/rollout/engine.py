"""What a rollout engine is: prompts in, completions out, on the live weights of the moment.

Knows nothing of members, rewards or ranks. The call order is `weights_changed`, `evaluate`, `evaluate`, ...,
`weights_changed`, ...; the prompts of one `evaluate` are one unit of work, and a completion may depend on the
other prompts of its unit (greedy decoding is not batch-invariant), never on anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from es_llm.types import Prompt


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer.

    `token_ids` end with the end-of-sequence token where there is one, as TRL's `completion_ids`; no padding
    follows. `text` is decoded without special tokens, or with those before the end (`skip_special_tokens` of the run).
    `finished`: the answer ended by itself and was not cut off at the length limit.
    """

    text: str
    token_ids: tuple[int, ...]
    finished: bool


class RolloutEngine(Protocol):
    """Answers prompts with the model's live weights."""

    def evaluate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """One completion per prompt of a unit, in order."""

    def sample(
        self, prompts: Sequence[Prompt], places: Sequence[tuple[int, int]], *, seed: int, temperature: float
    ) -> list[Completion]:
        """One sampled completion per prompt, a function of (seed, its place, the prompt, the weights)."""

    def log_probs(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        model: Any = None,
        *,
        temperature: float = 1.0,
    ) -> Sequence[Any]:
        """Log probability of each token of the completions, as `sample` draws them at this temperature, under the live
        weights, or under another model's."""

    def weights_changed(self) -> None:
        """Forget everything that was computed from the weights before (prefix caches)."""

    def check_lengths(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts that can't be answered within the model's context.

        Raises:
            ConfigError: names the row, its tokens, the length limit and the context.
        """

    def describe(self, prompt: Prompt) -> list[str]:
        """Lines for people: the prompt exactly as the model gets it, and what differs from what the data ask for."""
