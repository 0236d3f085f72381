"""A key-value cache of slots: a slot holds one row of a batch. It is allocated once, and rows enter and leave it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias, final

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

Windows: TypeAlias = Sequence[int | None]
"""The sliding window of each layer; None: the layer has none."""


@final
class SlotLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values (slots, heads, capacity, size of a head) of one layer; the first `length` columns are in use.

    Args:
        window: columns that a token sees at most, its own included; None: all before it.
    """

    def __init__(self, capacity: int, window: int | None) -> None:
        super().__init__()
        self.capacity, self.window, self.length = capacity, window, 0
        self.is_sliding = window is not None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate the memory, now that the shapes are known."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = (
            states.new_empty(*states.shape[:2], self.capacity, states.shape[3]) for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append columns to all slots; returns the keys and values that the new columns see."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, first = self.length, self._first()
        self.length += key_states.shape[-2]
        self.keys[:, :, start : self.length] = key_states
        self.values[:, :, start : self.length] = value_states
        return self.keys[:, :, first : self.length], self.values[:, :, first : self.length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Number of columns that the next `query_length` tokens see, and the first of them."""
        return self.length + query_length - self._first(), self._first()

    def _first(self) -> int:
        return 0 if self.window is None else max(self.length - self.window + 1, 0)

    def get_seq_length(self, *args: Any) -> int:
        """Number of columns in use."""
        return self.length

    def both(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values, whole."""
        return self.keys, self.values


@final
class SlotCache(DynamicCache):  # type: ignore[misc]
    """The slots of all layers, for any model whose layers keep plain keys and values (see `windows_of`)."""

    def __init__(self, windows: Windows, capacity: int) -> None:
        Cache.__init__(self, layers=[SlotLayer(capacity, window) for window in windows])
        self.capacity = capacity

    @property
    def length(self) -> int:
        """Number of columns in use."""
        return int(self.layers[0].length)

    def begin_with(self, prefix: SlotCache, of_slot_B: torch.Tensor) -> None:
        """Fill an empty cache: slot b begins with the columns of slot `of_slot_B[b]` of `prefix`."""
        for own, other in zip(self.layers, prefix.layers, strict=True):
            if not other.is_initialized:
                continue  # a layer that shares the keys and values of another one
            own.update(*(states[of_slot_B, :, : other.length] for states in other.both()))

    def replace(self, slots: torch.Tensor, rows: SlotCache) -> None:
        """Put the rows of another cache into these slots: they end at the last column in use. The columns before are
        zeroed, because what is masked must be finite."""
        for own, other in zip(self.layers, rows.layers, strict=True):
            if not other.is_initialized:
                continue
            start = own.length - other.length
            for mine, theirs in zip(own.both(), other.both(), strict=True):
                mine[slots, :, :start] = 0
                mine[slots, :, start : own.length] = theirs[:, :, : other.length]

    def keep(self, slots: torch.Tensor) -> None:
        """Drop all other slots."""
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys, layer.values = layer.keys[slots], layer.values[slots]

    def drop_columns(self, count: int) -> None:
        """Drop the first `count` columns of all slots."""
        for layer in self.layers:
            if layer.is_initialized:
                for states in layer.both():
                    states[:, :, : layer.length - count] = states[:, :, count : layer.length].clone()
                layer.length -= count


def windows_of(model: Any) -> Windows | None:
    """The sliding window of each layer of a model that can use a `SlotCache`; None for a model with another kind of
    cache, such as the states of linear attention."""
    layers = DynamicCache(config=model.config).layers
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        return None
    return [getattr(layer, "sliding_window", None) for layer in layers]
