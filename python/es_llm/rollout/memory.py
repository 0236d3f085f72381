"""The memory that decoding takes beside the weights: an estimate from above, and the error if it isn't free.

Legend: R rows of the unit, B rows that are decoded at a time, G groups of rows with the same weights, T tokens of the
longest prompt, N new tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch

from es_llm._core import LowRank
from es_llm.errors import OutOfMemoryError
from es_llm.model.table import ParameterTable
from es_llm.rollout.decoder import CACHE_NAMES
from es_llm.rollout.ends import text_config
from es_llm.rollout.slots import SlotCache, windows_of

_WIDE: Final = 4
"""Tensors of a layer's widest size that live at the same time, such as gate, up, their product and the input."""
_SAMPLING: Final = 80
"""Bytes per logit for choosing a token by chance: float64 copies, and those of the filters."""
_PENALTY: Final = 12
"""Bytes per logit for the repetition penalty."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The largest batch of a unit: R `rows`, B `slots`, G `groups` that share the beginning of their prompts (0: none
    do), T tokens of a `prompt`, N `new` tokens. `samples`: tokens are chosen by chance. `penalizes`: there is a
    repetition penalty."""

    rows: int
    slots: int
    groups: int
    prompt: int
    new: int
    samples: bool = False
    penalizes: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelMemory:
    """Bytes that a model needs.

    column: of the keys and values of a token, in all layers. copy: the same of one layer, repeated for all heads.
    activation: of a token of a prompt. score: of a pair of tokens of a prompt. logit: of one logit in its own type
    and float32. vocabulary: V. every_logit: the model computes the logits of all tokens of a prompt.
    """

    column: int
    copy: int
    activation: int
    score: int
    logit: int
    vocabulary: int
    every_logit: bool

    @staticmethod
    @torch.inference_mode()
    def of(model: Any) -> ModelMemory:
        """Run one token to see the shapes of keys, values and logits."""
        embedding = model.get_input_embeddings().weight
        cache = SlotCache(windows_of(model) or [], 1)
        accepted, one = inspect.signature(model.forward).parameters, torch.ones((1, 1), dtype=torch.long)
        name = next(name for name in CACHE_NAMES if name in accepted)
        one = one.to(embedding.device)
        logits = model(input_ids=one, attention_mask=one, use_cache=True, **{name: cache}).logits
        layers = [layer.both() for layer in cache.layers if layer.is_initialized]
        sizes = [sum(states.shape[1] * states.shape[3] * states.element_size() for states in both) for both in layers]
        config, size = text_config(model.config), embedding.element_size()
        heads = getattr(config, "num_attention_heads", None) or layers[0][0].shape[1]
        eager = getattr(config, "_attn_implementation", None) == "eager"
        return ModelMemory(
            column=sum(sizes),
            copy=max(sizes) * max(1, heads // layers[0][0].shape[1]),
            activation=_WIDE * _widest(model) * (getattr(config, "num_experts_per_tok", None) or 1) * size,
            score=heads * (size + 8) if eager else 5,
            logit=logits.element_size() + 4,
            vocabulary=int(logits.shape[-1]),
            every_logit="logits_to_keep" not in accepted,
        )

    def of_batch(self, batch: Batch) -> int:
        """Bytes beside the weights: the cache, and a forward pass of the prompts or of the next tokens.

        With waiting rows the cache has room for N more tokens, and rows that enter have a cache of their own first.
        """
        slots, waits = batch.slots, batch.slots < batch.rows
        columns = slots * (batch.prompt + batch.new * (1 + waits))
        entering = slots * batch.prompt if waits else 0
        shared = batch.groups * batch.prompt if batch.groups < batch.rows else 0
        prompts = slots * batch.prompt * (self.activation + batch.prompt * self.score)
        choosing = self.logit + _SAMPLING * batch.samples + _PENALTY * batch.penalizes
        logits = slots * self.vocabulary * (choosing + (batch.prompt * self.logit if self.every_logit else 0))
        seen = batch.rows * self.vocabulary * batch.penalizes
        cache = (columns + entering + shared) * self.column + columns * self.copy
        return cache + prompts + logits + seen


def noise_bytes(table: ParameterTable, members: int, slots: int) -> int:
    """Bytes of a unit's noise, twice while the next unit's is drawn, and of the rows' vectors."""
    factors = vectors = 0
    for parameter in table.parameters:
        if isinstance(parameter.perturbed, LowRank):
            inner = parameter.shape[-1]
            factors += parameter.perturbed.rank * (parameter.elements // inner + inner)
        else:
            vectors += parameter.elements
    return 4 * (2 * members * (factors + vectors) + slots * vectors)


@contextmanager
def explain_out_of_memory(rows: int) -> Iterator[None]:
    """Turn an error of exhausted memory in the block, which decodes this number of rows at a time, into one that names
    the option to set.

    Raises:
        OutOfMemoryError: in place of Python's or torch's error.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, OutOfMemoryError) or not _is_out_of_memory(error):
            raise
        first = str(error).partition("\n")[0]
        fewer = "a smaller `--max_completion_length`" if rows < 2 else f"`--rows_per_batch {power_below(rows)}`"
        raise OutOfMemoryError(
            f"no memory for {rows} completion(s) at a time: {first or type(error).__name__}; start the run with "
            f"{fewer}, or continue it on a machine with more free memory"
        ) from error


def power_below(rows: int) -> int:
    """The largest power of two below this number, at least 1."""
    return 1 << max(0, (rows - 1).bit_length() - 1)


def _is_out_of_memory(error: Exception) -> bool:
    """True for Python's error, that of CUDA, and the one that torch raises for host memory."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _widest(model: Any) -> int:
    """The largest side of a matrix, embeddings and head left out."""
    ends = [model.get_input_embeddings(), getattr(model, "get_output_embeddings", lambda: None)()]
    outer = {id(end.weight) for end in ends if hasattr(end, "weight")}
    sides = [max(weight.shape[-2:]) for weight in model.parameters() if weight.dim() > 1 and id(weight) not in outer]
    return int(max(sides, default=model.get_input_embeddings().weight.shape[-1]))
