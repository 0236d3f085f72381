"""Decoding of one batch, greedy or by another choice of each token.

`generate` is transformers', the reference, and for models that `decode` doesn't support. `decode` is a loop over
`model.forward` with a key-value cache. It does what `generate` does for a greedy request without logits processors, and
nothing else: the same inputs to the same forward pass, the same argmax over float32 logits. Rows that are finished
leave the batch, which is where it gains (measured: 1.4 to 1.8 times when the mean answer is a half to a quarter of the
longest, 1.0 to 1.1 when all are equally long). The model's `generation_config` is ignored. Knows nothing about text.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import torch

Choose: TypeAlias = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
"""(float32 logits (B, V), which rows of the batch these are (B,), step) -> the next tokens (B,)."""

ROW_MULTIPLE: Final = 8
"""Finished rows are dropped while others continue, down to a multiple of this number. With one torch thread each row
keeps its bits (measured on the CPU: from 4 rows on; fewer take another kernel). With more threads, float32 logits
may change in their last bits with the number of rows; a unit's answers stay a pure function of the unit, the
weights and the number of threads."""


CACHE_NAMES: Final = ("cache", "past_key_values")
"""Names of the key-value cache in `forward`: in transformers from 5.24 on, and before."""


def is_supported(model: Any) -> bool:
    """True if `decode` supports the model's kind of cache and inputs; else use `generate`."""
    from transformers import GenerationMixin

    stock = getattr(type(model), "prepare_inputs_for_generation", None) is GenerationMixin.prepare_inputs_for_generation
    dynamic = getattr(model, "_supports_default_dynamic_cache", lambda: False)()
    accepted = set(inspect.signature(model.forward).parameters)
    return bool(stock and dynamic and {"input_ids", "attention_mask"} <= accepted and accepted & set(CACHE_NAMES))


@torch.inference_mode()
def decode(
    model: Any,
    ids_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    pad_id: int,
    choose: Choose | None = None,
) -> torch.Tensor:
    """Generated ids (B, T'), T' <= max_new_tokens, `pad_id` after a row's first end-of-sequence token.

    Args:
        ids_BT: prompts, padded on the left.
        mask_BT: 1 where `ids_BT` holds a prompt's token, 0 where it holds padding.
        choose: the next tokens of some rows; default: the greatest logit.
    """
    from transformers import DynamicCache

    rows, width = ids_BT.shape
    mask_BT = torch.cat([mask_BT, mask_BT.new_ones(rows, max_new_tokens)], dim=1)
    position_BT = (mask_BT.cumsum(-1) - 1).masked_fill(mask_BT == 0, 0)
    cache = DynamicCache(config=model.config)
    options = _options(model, cache)
    device = ids_BT.device
    ends = torch.tensor(list(eos_ids), dtype=ids_BT.dtype, device=device)
    generated_BT = ids_BT.new_full((rows, max_new_tokens), pad_id)
    row_B = torch.arange(rows, device=device)  # rows of the unit that are still in the batch
    open_B = torch.ones(rows, dtype=torch.bool, device=device)
    start = 0
    for step in range(max_new_tokens):
        stop = width + step
        if "position_ids" in options:
            options["position_ids"] = position_BT[:, start:stop]
        output = model(input_ids=ids_BT, attention_mask=mask_BT[:, :stop], use_cache=True, **options)
        logits_BV = output.logits[:, -1].float()
        next_B = logits_BV.argmax(-1) if choose is None else choose(logits_BV, row_B, step)
        next_B = next_B.masked_fill(~open_B, pad_id)
        generated_BT[row_B, step] = next_B
        open_B &= torch.isin(next_B, ends, invert=True)
        left = int(open_B.sum())
        if left == 0:
            return generated_BT[:, : step + 1]
        if _worth_dropping(left, len(open_B)):
            kept = _kept(open_B, left)
            cache.batch_select_indices(kept)
            mask_BT, position_BT, next_B = mask_BT[kept], position_BT[kept], next_B[kept]
            open_B, row_B = open_B[kept], row_B[kept]
        ids_BT, start = next_B[:, None], stop
    return generated_BT


def _worth_dropping(left: int, batch: int) -> bool:
    """True if copying the cache without the finished rows pays: at least a quarter of the batch is dropped."""
    return 4 * _padded(left) <= 3 * batch


def _padded(left: int) -> int:
    return -(-left // ROW_MULTIPLE) * ROW_MULTIPLE


def _kept(open_B: torch.Tensor, left: int) -> torch.Tensor:
    """Rows to keep, in order: the open rows, and finished rows up to a multiple of `ROW_MULTIPLE`."""
    order_B = torch.argsort((~open_B).int(), stable=True)
    return order_B[: _padded(left)].sort().values


def _options(model: Any, cache: Any) -> dict[str, Any]:
    """The cache, by its name in this forward pass, and optional arguments that `generate` passes too."""
    accepted = inspect.signature(model.forward).parameters
    options: dict[str, Any] = {next(name for name in CACHE_NAMES if name in accepted): cache}
    if "position_ids" in accepted:
        options["position_ids"] = None
    if "logits_to_keep" in accepted:
        options["logits_to_keep"] = 1
    return options


@torch.inference_mode()
def generate(
    model: Any,
    ids_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    pad_id: int,
    choose: Choose | None = None,
) -> torch.Tensor:
    """Generated ids (B, T'); arguments and result are those of `decode`."""
    from transformers import GenerationConfig

    width = ids_BT.shape[1]

    def only_chosen(so_far_BT: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        assert choose is not None
        row_B = torch.arange(len(logits_BV), device=logits_BV.device)
        tokens_B = choose(logits_BV, row_B, so_far_BT.shape[1] - width)
        return torch.full_like(logits_BV, -torch.inf).scatter(1, tokens_B[:, None], 0.0)

    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=pad_id,
        eos_token_id=list(eos_ids) or None,
    )
    with _no_defaults(model):
        output: torch.Tensor = model.generate(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            generation_config=config,
            logits_processor=None if choose is None else [only_chosen],
        )
    return output[:, width:]


@contextmanager
def _no_defaults(model: Any) -> Iterator[None]:
    """Hide the model's generation defaults: `generate` would take every option that is None from them."""
    from transformers import GenerationConfig

    saved = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = saved
