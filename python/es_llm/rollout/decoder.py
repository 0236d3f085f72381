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
from es_llm.rollout.slots import SlotCache, Windows, windows_of
from es_llm.rollout.stops import StopStrings

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
        stops: a row also ends with the token that completes a stop string.
        pad_id: fills what has no token.
        choose: the next tokens of some rows; None: the greatest logit.
        groups: rows with the same number have the same weights; None: all rows have the same.
        on_rows: called before each forward pass with other rows than the last, with the rows of its batch (B,).
        most_rows: rows in the batch at most; others wait until slots are free. None: all rows.
        share_prefix: compute tokens that all prompts begin with once per group.
    """

    max_new_tokens: int
    eos_ids: Sequence[int]
    pad_id: int
    stops: StopStrings | None = None
    choose: Choose | None = None
    groups: Sequence[int] | None = None
    on_rows: Callable[[torch.Tensor], None] | None = None
    most_rows: int | None = None
    share_prefix: bool = True


@torch.inference_mode()
def decode(model: Any, prompts: Sequence[Sequence[int]], request: Request) -> list[list[int]]:
    """The generated ids of each row, with the token that ends it: of end of sequence, or the last of a stop string.

    Args:
        prompts: token ids of each row, at least one.
    """
    return _Run(model, prompts, request).tokens() if prompts else []


@final
class _Prompts:
    """The prompts of the unit's rows, and which rows wait."""

    def __init__(self, prompts: Sequence[Sequence[int]], request: Request, windows: Windows) -> None:
        groups = [0] * len(prompts) if request.groups is None else request.groups
        shared = _common(prompts) if request.share_prefix and len(set(groups)) < len(prompts) else 0
        # Columns without a token lie behind a shared beginning, so nothing may depend on the distance of columns.
        longest = max(map(len, prompts)) + request.max_new_tokens
        far = all(window is None or window >= longest for window in windows)
        self.shared = shared if shared >= SHORTEST_PREFIX and far else 0
        self.common = list(prompts[0][: self.shared])
        self.own = [list(prompt[self.shared :]) for prompt in prompts]
        self.width = max(map(len, self.own))
        self.waiting = list(range(len(prompts)))
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        self.groups = [numbers[group] for group in groups]

    def firsts(self) -> list[int]:
        """The first row of each group."""
        return [self.groups.index(number) for number in range(max(self.groups) + 1)]

    def take(self, count: int) -> list[int]:
        """The next rows that wait, at most this number."""
        rows, self.waiting = self.waiting[:count], self.waiting[count:]
        return rows

    def lengths(self, rows: Sequence[int], device: torch.device) -> torch.Tensor:
        """Tokens of the prompts of rows: the positions of their next tokens."""
        return torch.tensor([self.shared + len(self.own[row]) for row in rows], device=device)


@dataclass(kw_only=True)
class _Batch:
    """The rows in the batch, one per slot of the cache.

    rows: which rows of the unit (B,). positions: of the next tokens (B,). starts: first columns of the prompts (B,).
    open: rows that have not ended (B,). next: the tokens of the next forward pass (B,). mask: 1 where a column counts
    (B, T).
    """

    cache: SlotCache
    rows: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor

    def __post_init__(self) -> None:
        self.starts = torch.zeros_like(self.rows)
        self.open = torch.ones_like(self.rows, dtype=torch.bool)
        self.next = torch.empty_like(self.rows)

    def keep(self, slots: torch.Tensor) -> None:
        """Drop all other slots."""
        self.cache.keep(slots)
        for name in ("rows", "positions", "mask", "starts", "open", "next"):
            setattr(self, name, getattr(self, name)[slots])

    def replace(self, slots: torch.Tensor, other: _Batch) -> None:
        """Put the rows of another batch into these slots; their last columns are the last columns in use."""
        self.cache.replace(slots, other.cache)
        stop = self.cache.length
        start = stop - other.cache.length
        self.mask[slots] = 0
        self.mask[slots, start:stop] = other.mask
        self.rows = self.rows.index_copy(0, slots, other.rows)  # a new tensor: the rows are other ones
        self.positions[slots] = other.positions
        self.starts[slots], self.open[slots] = start, True

    def is_full(self) -> bool:
        """True if there is no column for another token."""
        return self.cache.length == self.cache.capacity

    def drop_columns(self, most: int) -> None:
        """Drop the first columns, at most this number, that no open row needs."""
        count = min(int(self.starts[self.open].min()), most)
        self.cache.drop_columns(count)
        self.mask = torch.cat([self.mask[:, count:], torch.zeros_like(self.mask[:, :count])], 1)
        self.starts -= count


@final
class _Run:
    """The decoding of one unit."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], request: Request) -> None:
        self._request, self._forward = request, _Forward(model, request.on_rows)
        self._windows = windows_of(model) or []
        self._prompts = _Prompts(prompts, request, self._windows)
        self._device = device = model.get_input_embeddings().weight.device
        self._every = 1 if device.type == "cpu" else LOOK_EVERY
        self._ends = torch.tensor(list(request.eos_ids), dtype=torch.long, device=device)
        # The last column takes what rows that have ended would write.
        self._generated_RT = torch.full((len(prompts), request.max_new_tokens + 1), request.pad_id, device=device)
        self._count_R = torch.zeros(len(prompts), dtype=torch.long, device=device)
        self._stopped = None if request.stops is None else request.stops.watch(prompts)
        self._prefix = self._shared_columns() if self._prompts.shared else None
        self._batch = self._fill(request.most_rows or len(prompts))

    def tokens(self) -> list[list[int]]:
        """Decode until all rows have ended."""
        steps = 0
        while self._tidy() if steps % self._every == 0 or self._batch.is_full() else True:
            self._step()
            steps += 1
        rows = zip(self._generated_RT.tolist(), self._count_R.tolist(), strict=True)
        return [tokens[:count] for tokens, count in rows]

    def _shared_columns(self) -> SlotCache:
        """The columns that the rows of a group share, computed on one row of each group."""
        rows = torch.tensor(self._prompts.firsts(), device=self._device)
        ids_BT = torch.tensor([self._prompts.common] * len(rows), device=self._device)
        position_BT = torch.arange(self._prompts.shared, device=self._device).expand_as(ids_BT)
        columns = SlotCache(self._windows, self._prompts.shared)
        self._forward(ids_BT, torch.ones_like(ids_BT), position_BT, columns, rows)
        return columns

    def _fill(self, slots: int) -> _Batch:
        """The first rows, in a cache that has room for their answers."""
        prompts = self._prompts
        rows = prompts.take(slots)
        width = prompts.width if prompts.waiting else max(len(prompts.own[row]) for row in rows)
        # Without waiting rows, all rows have ended when the cache is full.
        room = self._request.max_new_tokens * (2 if prompts.waiting else 1) - 1
        batch, logits_BV = self._prefill(rows, width, prompts.shared + width + room)
        batch.mask = torch.cat([batch.mask, batch.mask.new_zeros(len(rows), room)], 1)
        self._take(batch, logits_BV, torch.arange(len(rows), device=self._device))
        return batch

    def _admit(self, slots: torch.Tensor) -> None:
        """Put waiting rows into slots of rows that have ended."""
        rows = self._prompts.take(len(slots))
        width = max(len(self._prompts.own[row]) for row in rows)
        batch, logits_BV = self._prefill(rows, width, self._prompts.shared + width)
        self._batch.replace(slots[: len(rows)], batch)
        self._take(self._batch, logits_BV, slots[: len(rows)])

    def _prefill(self, rows: Sequence[int], width: int, capacity: int) -> tuple[_Batch, torch.Tensor]:
        """Compute the prompts of rows, padded on the left, in a new cache. Returns their batch, with the mask of the
        prompts alone, and the logits (B, V) of the next tokens."""
        prompts = self._prompts
        ids_BT, mask_BT = padded([prompts.own[row] for row in rows], self._request.pad_id, self._device)
        more = width - ids_BT.shape[1]
        ids_BT, mask_BT = pad(ids_BT, (more, 0), value=self._request.pad_id), pad(mask_BT, (more, 0))
        position_BT = (prompts.shared + mask_BT.cumsum(-1) - 1).masked_fill(mask_BT == 0, 0)
        cache, row_B = SlotCache(self._windows, capacity), torch.tensor(rows, device=self._device)
        if self._prefix is not None:
            cache.begin_with(self._prefix, torch.tensor([prompts.groups[row] for row in rows], device=self._device))
            mask_BT = pad(mask_BT, (prompts.shared, 0), value=1)
        logits_BV = self._forward(ids_BT, mask_BT, position_BT, cache, row_B)
        lengths_B = prompts.lengths(rows, self._device)
        return _Batch(cache=cache, rows=row_B, positions=lengths_B, mask=mask_BT), logits_BV

    def _step(self) -> None:
        """One more token for each row in the batch."""
        batch = self._batch
        column = batch.cache.length
        batch.mask[:, column] = 1
        ids_BT, position_BT = batch.next[:, None], batch.positions[:, None]
        logits_BV = self._forward(ids_BT, batch.mask[:, : column + 1], position_BT, batch.cache, batch.rows)
        batch.positions += batch.open  # a row that has ended must not pass the model's context
        self._take(batch, logits_BV, None)

    def _take(self, batch: _Batch, logits_BV: torch.Tensor, slots: torch.Tensor | None) -> None:
        """Choose the next tokens of these slots (None: all), and close the rows that end with them."""
        request, every = self._request, slots is None
        row_B, open_B = (batch.rows, batch.open) if every else (batch.rows[slots], batch.open[slots])
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
        if self._stopped is not None:
            open_B &= ~self._stopped(row_B, next_B)
        if every:
            batch.next, batch.open = next_B, open_B
        else:
            batch.next[slots], batch.open[slots] = next_B, open_B

    def _tidy(self) -> bool:
        """Let waiting rows in and drop rows that have ended. Returns False if no row is open."""
        batch, prompts = self._batch, self._prompts
        left, size = int(batch.open.sum()), len(batch.open)
        while prompts.waiting and _DROPPED * (size - left) >= size:
            self._admit((~batch.open).nonzero().squeeze(1))
            left = int(batch.open.sum())
        if left == 0:
            return False
        if not prompts.waiting and _worth_dropping(left, size):
            batch.keep(_kept(batch.open, left))
        if batch.is_full():
            batch.drop_columns(batch.cache.length - prompts.shared - prompts.width)
        return True


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
