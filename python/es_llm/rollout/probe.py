"""A first look at a model: which parameters text reaches, and whether a row's answer is its own in a padded batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import torch

from es_llm.errors import EsError, ModelError
from es_llm.model.used import Used

TEXT: Final = "The sum of 12 and 30 is 42. Add 7 to it: 49. "
SHORT, LONG, STEPS = 4, 64, 2
"""Tokens of a short and of a long prompt, and tokens that are decoded after them."""

FEWEST: Final = 4
"""Positions that a look needs: a model with fewer is taken as it is."""

FirstLogits = Callable[[torch.Tensor, torch.Tensor, Sequence[int]], torch.Tensor]
"""(ids (B, T), mask (B, T), tokens to go on with, one a step) -> float32 logits (steps, B, V)."""

_AROUND: Final = 4
"""Special tokens that a tokenizer may put around a text."""
_TOLERANCE: Final = 0.01
"""Of the logits' standard deviation, for the root mean square of differences in float32. Rounding is far below (1e-5),
other answers far above (0.06 and more)."""
_TOLERANCE_HALF: Final = 0.25
"""The same in bfloat16 or float16, for a model that can't compute in float32. Rounding: up to 0.09."""


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


def text_within(limit: int | None) -> str:
    """The text for a look that is at most `limit` tokens long (None: any number), whatever the tokenizer: no token is
    shorter than a character, and a few special tokens stand around it."""
    return TEXT if limit is None else TEXT[: max(1, limit - _AROUND)]


def look(model: Any, ids: Sequence[int], pad_id: int, logits: FirstLogits, context: int | None = None) -> Look:
    """Decode a short prompt alone, beside a long one, and beside one of its length.

    Args:
        ids: tokens of a text, which is repeated to make the long prompt.
        pad_id: token for padding.
        context: number of positions that the model has; None: any number. With fewer than `FEWEST` there is no look:
            all parameters count as used, and prompts are padded.

    Raises:
        ModelError: the model can't do it; the message has its error.
    """
    if context is not None and context < FEWEST:
        return Look(Batching.PADDED, frozenset())
    size = LONG if context is None else min(LONG, context - STEPS)
    long, used = (list(ids) * LONG)[:size], Used(model)
    short = long[: max(1, min(SHORT, len(long) // 2))]
    rows = _Rows(short, long, [*short[:-1], long[-1]], (short * STEPS)[:STEPS], pad_id, logits)
    try:
        with used.watch():
            gap = rows.gap(rows.long)
    except EsError:
        raise
    except Exception as error:  # a model is a program; it raises what it likes
        kind = type(error).__name__
        raise ModelError(f"{type(model).__name__} can't continue a text: {kind}: {error}") from error
    unused = used.unused()
    return Look(
        Batching.PADDED if gap <= _TOLERANCE else _batching(model, rows),
        unused if len(unused) < sum(1 for _ in model.parameters()) else frozenset(),
    )


@dataclass(frozen=True)
class _Rows:
    """A short prompt, a long one, another short one, tokens to go on with, and the model's way to go on."""

    short: list[int]
    long: list[int]
    other: list[int]
    after: list[int]
    pad_id: int
    logits: FirstLogits

    def gap(self, neighbour: list[int]) -> float:
        """By how much the short prompt's logits change beside another prompt, in their standard deviation."""
        alone = self._logits([self.short])[:, 0]
        beside = self._logits([neighbour, self.short])[:, 1]
        finite = alone.isfinite()
        if not torch.equal(finite, beside.isfinite()):
            return math.inf
        if not finite.any():
            return 0.0
        change = (alone - beside)[finite].square().mean().sqrt()
        return float(change / alone[finite].std(correction=0).clamp(min=torch.finfo(torch.float32).tiny))

    def _logits(self, rows: list[list[int]]) -> torch.Tensor:
        width = max(len(row) for row in rows)
        ids_BT = torch.tensor([[self.pad_id] * (width - len(row)) + row for row in rows])
        mask_BT = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        return self.logits(ids_BT, mask_BT, self.after)


def _batching(model: Any, rows: _Rows) -> Batching:
    """The judgement in float32, which tells rounding from other answers; in the model's type if it can't do that."""
    tolerance = _TOLERANCE
    try:
        with in_float32(model):
            padded, equal = rows.gap(rows.long), rows.gap(rows.other)
    except Exception:  # a kernel for attention in half precision alone, say
        tolerance, padded, equal = _TOLERANCE_HALF, rows.gap(rows.long), rows.gap(rows.other)
    if padded <= tolerance:
        return Batching.PADDED
    return Batching.EQUAL if equal <= tolerance else Batching.ALONE


@contextmanager
def in_float32(model: torch.nn.Module) -> Iterator[None]:
    """Let the model compute in float32, and give it back its own tensors afterwards."""
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
    own = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.float()
        yield
    finally:
        for tensor, data in zip(tensors, own, strict=True):
            tensor.data = data
