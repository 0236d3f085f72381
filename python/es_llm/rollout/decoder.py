"""The decoder: rows of a unit in one batch, greedy or by another choice of each token. Knows nothing about text.

A loop over `model.forward` with a key-value cache that is allocated once (`SlotCache`). Greedy, it gives the tokens of
transformers' `generate` without logits processors: the same argmax over float32 logits. It is faster by what it leaves
out: tokens that all prompts begin with are computed once per member, finished rows leave the batch, and waiting rows
take their slots. The model's `generation_config` is ignored.

All of this is decided by the prompts and the tokens: the answers of a unit are a pure function of the unit, the weights
and the number of torch's threads.

Legend: R rows of the unit, B rows in the batch, T columns, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, final

import torch
from torch.nn.functional import pad

from es_llm.rollout.padding import padded
from es_llm.rollout.slots import SlotCache, windows_of

Choose: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(float32 logits (B, V), which rows of the unit these are (B,), how many tokens each has so far (B,)) -> the next
tokens (B,)."""

ROW_MULTIPLE: Final = 8
"""Finished rows are dropped while others continue, down to a multiple of this number. With one torch thread each row
keeps its bits (measured on the CPU: from 4 rows on; fewer take another kernel). With more threads, float32 logits
may change in their last bits with the number of rows; a unit's answers stay a pure function of the unit, the
weights and the number of threads."""

SHORTEST_PREFIX: Final = 8
"""A shorter common beginning of prompts isn't worth a forward pass of its own."""

LOOK_EVERY: Final = 8
"""On a device that must be waited for, finished rows are looked for once in this number of steps."""

CACHE_NAMES: Final = ("cache", "past_key_values")
"""Names of the key-value cache in `forward`: in transformers from 5.24 on, and before."""


def is_supported(model: Any) -> bool:
    """True if the decoder supports the model's kind of cache and inputs."""
    from transformers import GenerationMixin

    stock = getattr(type(model), "prepare_inputs_for_generation", None) is GenerationMixin.prepare_inputs_for_generation
    dynamic = getattr(model, "_supports_default_dynamic_cache", lambda: False)()
    accepted = set(inspect.signature(model.forward).parameters)
    named = {"input_ids", "attention_mask"} <= accepted and accepted & set(CACHE_NAMES)
    return bool(stock and dynamic and named and windows_of(model) is not None)


@dataclass(frozen=True, kw_only=True)
class Request:
    """How rows are decoded.

    Args:
        max_new_tokens: tokens per row at most.
        eos_ids: a row ends with the first of these.
        pad_id: fills what has no token.
        choose: the next tokens of some rows; None: the greatest logit.
        ended: which rows end with their last token, besides those with an end-of-sequence token: (tokens (R, T) of the
            unit's rows so far, which rows (B,), how many tokens each has (B,)) -> (B,) bool.
        groups: rows with the same number have the same weights; None: all rows have the same.
        on_rows: called before each forward pass with other rows than the last, with the rows of its batch (B,).
        most_rows: rows in the batch at most; others wait until slots are free. None: all rows.
        share_prefix: compute tokens that all prompts begin with once per group.
    """

    max_new_tokens: int
    eos_ids: Sequence[int]
    pad_id: int
    choose: Choose | None = None
    ended: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    groups: Sequence[int] | None = None
    on_rows: Callable[[torch.Tensor], None] | None = None
    most_rows: int | None = None
    share_prefix: bool = True


@torch.inference_mode()
def decode(model: Any, prompts: Sequence[Sequence[int]], request: Request) -> list[list[int]]:
    """The generated ids of each row, with the end-of-sequence token where there is one.

    Args:
        prompts: token ids of each row, at least one.
    """
    return _Run(model, prompts, request).tokens() if prompts else []


@final
class _Run:
    """The decoding of one unit. `B` tensors have one entry per slot."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], request: Request) -> None:
        self._request, self._forward = request, _Forward(model, request.on_rows)
        self._windows = windows_of(model) or []
        self._device = device = model.get_input_embeddings().weight.device
        self._every = 1 if device.type == "cpu" else LOOK_EVERY
        groups = [0] * len(prompts) if request.groups is None else list(request.groups)
        first = {group: row for row, group in reversed(list(enumerate(groups)))}
        shared = _common(prompts) if request.share_prefix and len(first) < len(prompts) else 0
        # Columns without a token lie behind a shared prefix, so nothing may depend on the distance of columns.
        longest = max(map(len, prompts)) + request.max_new_tokens
        far = all(window is None or window >= longest for window in self._windows)
        self._shared = shared if shared >= SHORTEST_PREFIX and far else 0
        self._own = [list(prompt[self._shared :]) for prompt in prompts]
        self._width = max(map(len, self._own))
        self._waiting = list(range(len(prompts)))
        self._ends = torch.tensor(list(request.eos_ids), dtype=torch.long, device=device)
        # The last column takes what rows that have ended would write.
        self._generated_RT = torch.full((len(prompts), request.max_new_tokens + 1), request.pad_id, device=device)
        self._count_R = torch.zeros(len(prompts), dtype=torch.long, device=device)
        if self._shared:
            self._begin_prefix(prompts[0][: self._shared], groups, sorted(first.values()))
        self._fill(request.most_rows or len(prompts))

    def tokens(self) -> list[list[int]]:
        """Decode until all rows have ended."""
        steps = 0
        while self._tidy() if steps % self._every == 0 or self._is_full() else True:
            self._step()
            steps += 1
        rows = zip(self._generated_RT.tolist(), self._count_R.tolist(), strict=True)
        return [tokens[:count] for tokens, count in rows]

    def _begin_prefix(self, common: Sequence[int], groups: Sequence[int], rows: Sequence[int]) -> None:
        """Compute the columns that all rows of a group share, on one row of each group."""
        number = {groups[row]: index for index, row in enumerate(rows)}
        self._group_R = torch.tensor([number[group] for group in groups], device=self._device)
        self._prefix = SlotCache(self._windows, self._shared)
        ids_BT = torch.tensor([list(common)] * len(rows), device=self._device)
        position_BT = torch.arange(self._shared, device=self._device).expand_as(ids_BT)
        row_B = torch.tensor(rows, device=self._device)
        self._forward(ids_BT, torch.ones_like(ids_BT), position_BT, self._prefix, row_B)

    def _fill(self, slots: int) -> None:
        """Put the first rows into new slots."""
        rows = self._next_rows(slots)
        width = self._width if self._waiting else max(len(self._own[row]) for row in rows)
        room = self._request.max_new_tokens * (2 if self._waiting else 1) + self._every
        self._cache = SlotCache(self._windows, self._shared + width + room)
        self._row_B = torch.tensor(rows, device=self._device)
        logits_BV, mask_BT = self._prefill(rows, width, self._cache)
        self._mask_BT = torch.cat([mask_BT, mask_BT.new_zeros(len(rows), room)], 1)
        self._position_B = self._lengths(rows)
        self._start_B = torch.zeros_like(self._row_B)
        self._open_B = torch.ones_like(self._row_B, dtype=torch.bool)
        self._next_B = torch.empty_like(self._row_B)
        self._take(logits_BV, torch.arange(len(rows), device=self._device))

    def _admit(self, slots: torch.Tensor) -> None:
        """Put waiting rows into slots of ended rows; their last columns are the last columns in use."""
        rows = self._next_rows(len(slots))
        slots, width = slots[: len(rows)], max(len(self._own[row]) for row in rows)
        small = SlotCache(self._windows, self._shared + width)
        logits_BV, mask_BT = self._prefill(rows, width, small)
        self._cache.replace(slots, small)
        start = self._cache.length - mask_BT.shape[1]
        self._mask_BT[slots] = 0
        self._mask_BT[slots, start : self._cache.length] = mask_BT
        self._row_B = self._row_B.index_copy(0, slots, torch.tensor(rows, device=self._device))
        self._position_B[slots] = self._lengths(rows)
        self._start_B[slots], self._open_B[slots] = start, True
        self._take(logits_BV, slots)

    def _prefill(self, rows: Sequence[int], width: int, cache: SlotCache) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the prompts of rows, padded on the left, in an empty cache. Returns the logits (B, V) of the next
        tokens, and the mask (B, T) of the prompts' columns."""
        ids_BT, mask_BT = padded([self._own[row] for row in rows], self._request.pad_id, self._device)
        more = width - ids_BT.shape[1]
        ids_BT, mask_BT = pad(ids_BT, (more, 0), value=self._request.pad_id), pad(mask_BT, (more, 0))
        position_BT = (self._shared + mask_BT.cumsum(-1) - 1).masked_fill(mask_BT == 0, 0)
        row_B = self._row_B if cache is self._cache else torch.tensor(rows, device=self._device)
        if self._shared:
            cache.begin_with(self._prefix, self._group_R[row_B])
            mask_BT = torch.cat([mask_BT.new_ones(len(rows), self._shared), mask_BT], 1)
        return self._forward(ids_BT, mask_BT, position_BT, cache, row_B), mask_BT

    def _step(self) -> None:
        """One more token for each row in the batch."""
        column = self._cache.length
        self._mask_BT[:, column] = 1
        ids_BT, position_BT = self._next_B[:, None], self._position_B[:, None]
        logits_BV = self._forward(ids_BT, self._mask_BT[:, : column + 1], position_BT, self._cache, self._row_B)
        self._position_B += 1
        self._take(logits_BV, None)

    def _take(self, logits_BV: torch.Tensor, slots: torch.Tensor | None) -> None:
        """Choose the next token of these slots (None: all), and close the rows that it ends."""
        request, every = self._request, slots is None
        row_B, open_B = (self._row_B, self._open_B) if every else (self._row_B[slots], self._open_B[slots])
        count_B = self._count_R[row_B]
        if request.choose is None:
            next_B = logits_BV.argmax(-1)
        else:
            next_B = request.choose(logits_BV, row_B, count_B.clamp(max=request.max_new_tokens - 1))
        next_B = next_B.masked_fill(~open_B, request.pad_id)
        self._generated_RT[row_B, count_B.masked_fill(~open_B, request.max_new_tokens)] = next_B
        count_B = count_B + open_B
        self._count_R[row_B] = count_B
        open_B = open_B & torch.isin(next_B, self._ends, invert=True) & (count_B < request.max_new_tokens)
        if request.ended is not None:
            open_B = open_B & ~request.ended(self._generated_RT, row_B, count_B)
        if every:
            self._next_B, self._open_B = next_B, open_B
        else:
            self._next_B[slots], self._open_B[slots] = next_B, open_B

    def _tidy(self) -> bool:
        """Let waiting rows in and drop rows that have ended. Returns False if no row is open."""
        left = int(self._open_B.sum())
        while self._waiting and _DROPPED * (len(self._open_B) - left) >= len(self._open_B):
            self._admit((~self._open_B).nonzero().squeeze(1))
            left = int(self._open_B.sum())
        if left == 0:
            return False
        if not self._waiting and _worth_dropping(left, len(self._open_B)):
            self._keep(_kept(self._open_B, left))
        if self._is_full():
            first = int(self._start_B[self._open_B].min())
            count = min(first, self._cache.length - self._shared - self._width)
            self._cache.drop_columns(count)
            self._mask_BT = torch.cat([self._mask_BT[:, count:], self._mask_BT.new_zeros(len(self._row_B), count)], 1)
            self._start_B -= count
        return True

    def _keep(self, slots: torch.Tensor) -> None:
        self._cache.keep(slots)
        self._row_B, self._position_B, self._start_B = (
            tensor[slots] for tensor in (self._row_B, self._position_B, self._start_B)
        )
        self._mask_BT, self._next_B, self._open_B = (
            tensor[slots] for tensor in (self._mask_BT, self._next_B, self._open_B)
        )

    def _is_full(self) -> bool:
        return self._cache.length == self._cache.capacity

    def _next_rows(self, count: int) -> list[int]:
        rows, self._waiting = self._waiting[:count], self._waiting[count:]
        return rows

    def _lengths(self, rows: Sequence[int]) -> torch.Tensor:
        """Tokens of the prompts of rows: the positions of their next tokens."""
        return torch.tensor([self._shared + len(self._own[row]) for row in rows], device=self._device)


class _Forward:
    """The forward pass with the arguments that `generate` passes: logits (B, V) of the last column, as float32."""

    def __init__(self, model: Any, on_rows: Callable[[torch.Tensor], None] | None) -> None:
        accepted = inspect.signature(model.forward).parameters
        self._model, self._on_rows = model, on_rows
        self._cache = next(name for name in CACHE_NAMES if name in accepted)
        self._positions = "position_ids" in accepted
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._rows: torch.Tensor | None = None

    def __call__(
        self,
        ids_BT: torch.Tensor,
        mask_BT: torch.Tensor,
        position_BT: torch.Tensor,
        cache: SlotCache,
        row_B: torch.Tensor,
    ) -> torch.Tensor:
        if self._on_rows is not None and self._rows is not row_B:
            self._on_rows(row_B)
            self._rows = row_B
        options = {"position_ids": position_BT, **self._options} if self._positions else self._options
        output = self._model(
            input_ids=ids_BT, attention_mask=mask_BT, use_cache=True, **{self._cache: cache}, **options
        )
        logits_BV: torch.Tensor = output.logits[:, -1].float()
        return logits_BV


def _common(prompts: Sequence[Sequence[int]]) -> int:
    """Number of tokens that all prompts begin with; each keeps at least one of its own."""
    most = min(map(len, prompts)) - 1
    first = prompts[0]
    return next(
        (column for column in range(most) if any(prompt[column] != first[column] for prompt in prompts)), max(most, 0)
    )


_DROPPED: Final = 4
"""Rows are dropped, or let in, if at least one of this number of slots is free."""


def _worth_dropping(left: int, batch: int) -> bool:
    """True if copying the cache without the finished rows pays."""
    return _DROPPED * (batch - _padded(left)) >= batch


def _padded(left: int) -> int:
    return -(-left // ROW_MULTIPLE) * ROW_MULTIPLE


def _kept(open_B: torch.Tensor, left: int) -> torch.Tensor:
    """Slots to keep, in order: the open rows, and finished rows up to a multiple of `ROW_MULTIPLE`."""
    order_B = torch.argsort((~open_B).int(), stable=True)
    return order_B[: _padded(left)].sort().values
