"""What a rollout engine is: members and prompts in, completions out.

An engine runs one copy of the model. It names the tensors that it runs (`targets`), `Weights` writes live weights into
them, and the engine asks for a member's weights (`LiveMember.switch`) before it answers. Knows nothing of rewards or
ranks. The call order is `targets`, `attach`, then the others in any order.

The prompts of one `evaluate` are one batch. A completion may depend on the other prompts of its batch (greedy decoding
is not batch-invariant) and on the weights of its member, never on anything else.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, final, runtime_checkable

from es_llm._core import Member
from es_llm.model.table import ParameterTable
from es_llm.model.targets import Target
from es_llm.model.weights import Weights
from es_llm.noise.streams import SAMPLES
from es_llm.types import Prompt


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer.

    `token_ids` end with the end-of-sequence token where there is one, as TRL's `completion_ids`, or with the token that
    completes a stop string; no padding follows. `text` is decoded without special tokens, or with those before the end
    (`skip_special_tokens` of the run).
    `finished`: the answer ended by itself and was not cut off at the length limit.
    """

    text: str
    token_ids: tuple[int, ...]
    finished: bool


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the tokens of some completions are chosen. Names and meanings are those of TRL and transformers.

    A completion is a function of its address, the prompt and the weights: the same address gets the same random numbers
    for every member (common random numbers), in every batch and on every rank.

    Args:
        temperature: of the softmax; 0 takes the most probable token.
        top_k: only the k most probable tokens; 0: all.
        top_p: only the most probable tokens whose probabilities add up to this.
        min_p: only tokens with at least this share of the probability of the most probable one.
        repetition_penalty: divides positive logits of tokens that prompt or answer have, and multiplies negative ones.
        seed: of the run.
        stream: see `es_llm.noise.streams`.
        addresses: (prompt, sample) of each prompt, in [0, 2**32).
    """

    temperature: float
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stream: int = SAMPLES
    addresses: Sequence[tuple[int, int]] = ()


@final
class LiveMember:
    """Writes a member's live weights, unless they are written already. `seconds` is the time that writing took so far.

    Args:
        weights: those that the engine's targets belong to.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._written: tuple[int, int] | str | None = _UNKNOWN
        self.seconds = 0.0

    @property
    def table(self) -> ParameterTable:
        """The trained parameters and their noise."""
        return self._weights.table

    def switch(self, member: Member | None) -> bool:
        """Make the live weights those of `member`, or without noise for None. Returns True if they were written: the
        engine must forget everything that it computed from the weights before, such as prefix caches."""
        wanted = None if member is None else (member.iteration, member.index)
        if self._written == wanted:
            return False
        start = time.perf_counter()
        if member is None:
            self._weights.unperturb()
        else:
            self._weights.perturb(member)
        self._written = wanted
        self.seconds += time.perf_counter() - start
        return True

    def forget(self) -> None:
        """Write the next member's weights in any case: masters or live weights may have changed."""
        self._written = _UNKNOWN


_UNKNOWN: Final = "unknown"


class RolloutEngine(Protocol):
    """Answers prompts with the weights of members. None in place of a member is the model without noise."""

    @property
    def members_per_unit(self) -> int:
        """Members that one `evaluate` should get, at least 1; part of what a unit is, so the same on all ranks."""

    def targets(self) -> Sequence[Target]:
        """The tensors that the engine runs. Parameters without a target are not trained."""

    def attach(self, live: LiveMember) -> None:
        """Take over how to get a member's weights into the targets."""

    def evaluate(
        self, members: Sequence[Member | None], prompts: Sequence[Prompt], sampling: Sampling | None = None
    ) -> list[list[Completion]]:
        """For each member, one completion per prompt, in order: greedy, or as `sampling` says."""

    def check_lengths(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts that can't be answered within the model's context.

        Raises:
            ConfigError: names the row, its tokens, the length limit and the context.
        """

    def describe(self, prompt: Prompt) -> list[str]:
        """Lines to print: the prompt exactly as the model gets it, and how this differs from the data."""

    def notices(self) -> list[str]:
        """Warnings for people about this model in this engine, at the start of a run."""


@runtime_checkable
class SmallBatches(Protocol):
    """An engine that can decode a unit's rows in smaller batches; the option `rows_per_batch` needs one."""

    def limit_rows(self, rows: int | None) -> None:
        """Decode at most this number of rows at a time; None: all rows of a unit."""

    def bytes_needed(self, members: int, prompts: int, rows: int | None, sampling: Sampling | None) -> int | None:
        """Upper estimate of the memory that one `evaluate` takes beside the weights; None: unknown.

        Args:
            members: with noise; 0: the model without noise.
            prompts: each of the length of the longest prompt that `check_lengths` got.
            rows: that are decoded at a time; None: all.
            sampling: None: greedy.
        """


@runtime_checkable
class LogProbs(Protocol):
    """An engine that also gives log probabilities; `eval_kl` needs one."""

    def log_probs(
        self, prompts: Sequence[Prompt], completions: Sequence[Completion], base: Any = None, *, temperature: float
    ) -> Sequence[Any]:
        """Log probability of each token of the completions, sampled at this temperature.

        Args:
            prompts: one for each completion.
            completions: what was sampled.
            base: a transformers model to ask; None: the engine's own weights, without noise.
            temperature: that of the samples.
        """
