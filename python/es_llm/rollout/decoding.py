"""Decoding by transformers' `generate`: the reference, and for models that the decoder doesn't support.

The model's `generation_config` is ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from es_llm.rollout.decoder import Request
from es_llm.rollout.padding import padded


@torch.inference_mode()
def generate(model: Any, prompts: Sequence[Sequence[int]], request: Request) -> list[list[int]]:
    """As `es_llm.rollout.decoder.decode`, in one batch of all rows; `groups` and `on_rows` must be None."""
    from transformers import GenerationConfig

    if not prompts:
        return []
    assert request.on_rows is None, "rows with different weights need the decoder"
    ids_BT, mask_BT = padded(prompts, request.pad_id, model.get_input_embeddings().weight.device)
    width, choose = ids_BT.shape[1], request.choose

    def only_chosen(so_far_BT: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        assert choose is not None
        row_B = torch.arange(len(logits_BV), device=logits_BV.device)
        tokens_B = choose(logits_BV, row_B, torch.full_like(row_B, so_far_BT.shape[1] - width))
        return torch.full_like(logits_BV, -torch.inf).scatter(1, tokens_B[:, None], 0.0)

    config = GenerationConfig(
        max_new_tokens=request.max_new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        pad_token_id=request.pad_id,
        eos_token_id=list(request.eos_ids) or None,
    )
    with _no_defaults(model):
        output: torch.Tensor = model.generate(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            generation_config=config,
            logits_processor=None if choose is None else [only_chosen],
        )
    ends = set(request.eos_ids)
    return [_until(row, ends) for row in output[:, width:].tolist()]


def _until(row: list[int], ends: set[int]) -> list[int]:
    """The tokens up to the first end-of-sequence token."""
    stop = next((index for index, token in enumerate(row) if token in ends), len(row))
    return row[: stop + 1]


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
