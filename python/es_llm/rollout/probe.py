"""A first look at a model: which parameters text reaches, and whether padding changes the answer to a prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import torch

from es_llm.errors import EsError, ModelError
from es_llm.model.used import Used
from es_llm.rollout.replaced import in_float32

TEXT: Final = "The sum of 12 and 30 is 42. Add 7 to it: 49. "
SHORT, LONG, STEPS = 4, 64, 2
"""Number of tokens of a short and of a long prompt, and of the tokens decoded after them."""

FEWEST: Final = 4
"""Number of positions that a look needs; a model with fewer isn't looked at."""

FirstLogits = Callable[[Sequence[Sequence[int]], Sequence[int], bool], torch.Tensor]
"""(token ids of B prompts, next tokens, one per step, whether to compute what the prompts begin with once) -> float32
logits (steps, B, V)."""

_AROUND: Final = 4
"""Number of special tokens that a tokenizer may put around a text."""
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
    """The result of a look at a model.

    unused: names of parameters that text doesn't reach.
    shares_prefixes: tokens that prompts begin with can be computed once for all of them.
    """

    batching: Batching
    unused: frozenset[str]
    shares_prefixes: bool


def text_within(limit: int | None) -> str:
    """A text of at most `limit` tokens (None: no limit) for any tokenizer.

    A token has at least one character, and a few special tokens may be added around the text.
    """
    return TEXT if limit is None else TEXT[: max(1, limit - _AROUND)]


def look(model: Any, ids: Sequence[int], logits: FirstLogits, context: int | None = None) -> Look:
    """Decode a short prompt alone, beside a long one, and beside one of its length; then two that begin alike.

    Args:
        ids: tokens of a text, which is repeated to make the long prompt.
        context: number of positions that the model has; None: no limit. With fewer than `FEWEST` the model isn't
            looked at: all parameters count as used, and prompts are padded.
    """
    if context is not None and context < FEWEST:
        return Look(Batching.PADDED, frozenset(), False)
    size = LONG if context is None else min(LONG, context - STEPS)
    long, used = (list(ids) * LONG)[:size], Used(model)
    short = long[: max(1, min(SHORT, len(long) // 2))]
    rows = _Rows(short, long, [*short[:-1], long[-1]], (short * STEPS)[:STEPS], logits)
    try:
        with used.watch():
            gap = rows.gap(rows.long)
    except EsError:
        raise
    except Exception as error:  # a model is a program and may raise anything
        kind = type(error).__name__
        raise ModelError(f"{type(model).__name__} can't continue a text: {kind}: {error}") from error
    unused = used.unused()
    batching = Batching.PADDED if gap <= _TOLERANCE else _batching(model, rows)
    return Look(
        batching,
        unused if len(unused) < sum(1 for _ in model.parameters()) else frozenset(),
        batching is Batching.PADDED and _shares_prefixes(model, rows),
    )


@dataclass(frozen=True)
class _Rows:
    """A short prompt, a long one, another short one, the tokens after them, and how to get the logits of these."""

    short: list[int]
    long: list[int]
    other: list[int]
    after: list[int]
    logits: FirstLogits

    def gap(self, neighbour: list[int]) -> float:
        """How far the short prompt's logits change beside another prompt, in units of their standard deviation."""
        return _gap(self._logits([self.short])[:, 0], self._logits([neighbour, self.short])[:, 1])

    def prefix_gap(self) -> float:
        """How far the logits of two long prompts of different lengths change if what they begin with is shared."""
        rows = [self.long, [*self.long[: 2 * len(self.long) // 3], *self.short]]
        return _gap(self._logits(rows), self._logits(rows, shared=True))

    def _logits(self, rows: list[list[int]], *, shared: bool = False) -> torch.Tensor:
        return self.logits(rows, self.after, shared)


def _gap(before: torch.Tensor, after: torch.Tensor) -> float:
    """How far logits change, in units of their standard deviation."""
    finite = before.isfinite()
    if not torch.equal(finite, after.isfinite()):
        return math.inf
    if not finite.any():
        return 0.0
    change = (before - after)[finite].square().mean().sqrt()
    return float(change / before[finite].std(correction=0).clamp(min=torch.finfo(torch.float32).tiny))


def _shares_prefixes(model: Any, rows: _Rows) -> bool:
    """True if sharing changes no logits. Tested in float32, as `_batching`."""
    if rows.prefix_gap() <= _TOLERANCE:
        return True
    try:
        with in_float32(model):
            return rows.prefix_gap() <= _TOLERANCE
    except Exception:  # such as an attention kernel for half precision only
        return False


def _batching(model: Any, rows: _Rows) -> Batching:
    """The batching that keeps answers equal.

    Tested in float32, where rounding is far smaller than a change of answers; in the model's own type if it can't
    compute in float32.
    """
    tolerance = _TOLERANCE
    try:
        with in_float32(model):
            padded, equal = rows.gap(rows.long), rows.gap(rows.other)
    except Exception:  # such as an attention kernel for half precision only
        tolerance, padded, equal = _TOLERANCE_HALF, rows.gap(rows.long), rows.gap(rows.other)
    if padded <= tolerance:
        return Batching.PADDED
    return Batching.EQUAL if equal <= tolerance else Batching.ALONE
