"""Greedy decoding of one batch over `model.forward` with a key-value cache.

Does what transformers' `generate` does for a greedy request without logits processors, and nothing else: the
same inputs to the same forward pass, the same argmax over float32 logits. The model's `generation_config` has
no say. Knows nothing about text.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch


def is_supported(model: Any) -> bool:
    """Whether `decode` knows the model's kind of cache and inputs; else use `generate`."""
    from transformers import GenerationMixin

    stock = getattr(type(model), "prepare_inputs_for_generation", None) is GenerationMixin.prepare_inputs_for_generation
    dynamic = getattr(model, "_supports_default_dynamic_cache", lambda: False)()
    accepted = inspect.signature(model.forward).parameters
    return bool(stock and dynamic and {"input_ids", "attention_mask", "past_key_values"} <= set(accepted))


@torch.inference_mode()
def decode(
    model: Any,
    ids_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    pad_id: int,
) -> torch.Tensor:
    """Generated ids (B, T'), T' <= max_new_tokens, `pad_id` after a row's first end-of-sequence token.

    Args:
        ids_BT: prompts, padded on the left.
        mask_BT: 1 where `ids_BT` holds a prompt's token, 0 where it holds padding.
    """
    from transformers import DynamicCache

    rows, width = ids_BT.shape
    mask_BT = torch.cat([mask_BT, mask_BT.new_ones(rows, max_new_tokens)], dim=1)
    position_BT = (mask_BT.cumsum(-1) - 1).masked_fill(mask_BT == 0, 0)
    options = _options(model)
    cache = DynamicCache(config=model.config)
    ends = torch.tensor(list(eos_ids), dtype=ids_BT.dtype)
    open_B = torch.ones(rows, dtype=torch.bool)
    generated: list[torch.Tensor] = []
    start = 0
    for stop in range(width, width + max_new_tokens):
        if "position_ids" in options:
            options["position_ids"] = position_BT[:, start:stop]
        output = model(
            input_ids=ids_BT, attention_mask=mask_BT[:, :stop], past_key_values=cache, use_cache=True, **options
        )
        next_B = output.logits[:, -1].float().argmax(-1).masked_fill(~open_B, pad_id)
        generated.append(next_B)
        open_B &= torch.isin(next_B, ends, invert=True)
        if not open_B.any():
            break
        ids_BT, start = next_B[:, None], stop
    return torch.stack(generated, dim=1)


def _options(model: Any) -> dict[str, Any]:
    """Optional arguments of the forward pass that `generate` gives too."""
    accepted = inspect.signature(model.forward).parameters
    options: dict[str, Any] = {}
    if "position_ids" in accepted:
        options["position_ids"] = None
    if "logits_to_keep" in accepted:
        options["logits_to_keep"] = 1
    return options
