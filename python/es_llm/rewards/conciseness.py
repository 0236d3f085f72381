"""Conciseness (Qiu et al., arXiv 2509.24372): a completion as long as the shortest right answer is best.

    reward = -|len(completion) - len(answer)|, in characters of the completion alone

Reported on a scale where -2000 is 0 and 0 is 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from es_llm.rewards.marks import inline
from es_llm.rewards.text import completion_text

ZERO: Final = -2000.0
"""The reward that is reported as 0."""


@inline
def conciseness_reward(completions: Sequence[Any], answer: Sequence[str], **columns: Any) -> list[float]:
    """-|len(completion) - len(answer)| for each, at most 0."""
    texts = map(completion_text, completions)
    return [-float(abs(len(text) - len(short))) for text, short in zip(texts, answer, strict=True)]


@inline
def rescaled_conciseness(completions: Sequence[Any], answer: Sequence[str], **columns: Any) -> list[float]:
    """The reward as the paper reports it: 1 - reward / -2000; below 0 for lengths more than 2,000 off."""
    return [1.0 - reward / ZERO for reward in conciseness_reward(completions, answer)]
