"""A first look at a model: which parameters text reaches, and whether a row's answer is its own in a padded batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import torch

from es_llm.errors import EsError, ModelError
from es_llm.model.used import Used

TEXT: Final = "The sum of 12 and 30 is 42, because 12 + 30 = 42. Now add 7 to it, and say which number it is: 49. " * 4
SHORT, LONG, STEPS = 4, 64, 2
"""Tokens of a short and of a long prompt, and tokens that are decoded after them."""

FirstLogits = Callable[[torch.Tensor, torch.Tensor, Sequence[int]], torch.Tensor]
"""(ids (B, T), mask (B, T), tokens to go on with, one a step) -> float32 logits (steps, B, V)."""

_TOLERANCE: Final = {torch.float32: 0.01, torch.float64: 0.01}
_TOLERANCE_HALF: Final = 0.25
"""Of the logits' standard deviation, for the root mean square of differences. Rounding is far below (1e-5 in float32),
another answer far above (about 1)."""


class Batching(Enum):
    """Which prompts can share a batch without changing each other's answers."""

    PADDED = "prompts of all lengths, padded on the left"
    EQUAL = "prompts of one length"
    ALONE = "each prompt by itself"


@dataclass(frozen=True)
class Look:
    """What was seen of a model."""

    batching: Batching
    unused: frozenset[str]


def look(model: Any, ids: Sequence[int], pad_id: int, logits: FirstLogits) -> Look:
    """Decode a short prompt alone, beside a long one, and beside one of its length.

    Args:
        ids: tokens of a text, the longer the better.
        pad_id: token for padding.

    Raises:
        ModelError: the model can't do it; the message has its error.
    """
    long, used = list(ids[:LONG]), Used(model)
    short = long[: max(1, min(SHORT, len(long) // 2))]
    turned, after = [*short[:-1], long[-1]], (short * STEPS)[:STEPS]
    try:
        with used.watch():
            alone = _logits(logits, [short], pad_id, after)
            padded = _logits(logits, [long, short], pad_id, after)[:, 1]
            batching = Batching.PADDED
            if not _near(alone[:, 0], padded, model):
                beside = _logits(logits, [turned, short], pad_id, after)[:, 1]
                batching = Batching.EQUAL if _near(alone[:, 0], beside, model) else Batching.ALONE
    except EsError:
        raise
    except Exception as error:  # a model is a program; it raises what it likes
        kind = type(error).__name__
        raise ModelError(f"{type(model).__name__} can't go on with a text: {kind}: {error}") from error
    unused = used.unused()
    return Look(batching, unused if len(unused) < sum(1 for _ in model.parameters()) else frozenset())


def _logits(logits: FirstLogits, rows: list[list[int]], pad_id: int, after: Sequence[int]) -> torch.Tensor:
    width = max(len(row) for row in rows)
    ids_BT = torch.tensor([[pad_id] * (width - len(row)) + row for row in rows])
    mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return logits(ids_BT, mask_BT, after)


def _near(one: torch.Tensor, other: torch.Tensor, model: Any) -> bool:
    """Whether logits differ by no more than rounding; those that aren't finite aren't compared."""
    tolerance = max(_TOLERANCE.get(weight.dtype, _TOLERANCE_HALF) for weight in model.parameters())
    finite = one.isfinite() & other.isfinite()
    gap = (one - other)[finite].square().mean().sqrt()
    same = torch.equal(one.isfinite(), other.isfinite())
    return same and (not finite.any() or bool(gap <= tolerance * one[finite].std(correction=0)))
