"""Decoding of one batch by transformers' `generate`: the reference, and for models that `decoding` doesn't support."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from es_llm.rollout.decoding import Choose


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
    """Generated ids (B, T'); arguments and result are those of `decoding.decode`."""
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
