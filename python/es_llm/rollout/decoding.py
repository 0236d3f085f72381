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
    stopped = None if request.stops is None else request.stops.watch(prompts)

    def only_chosen(so_far_BT: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        assert choose is not None
        row_B = torch.arange(len(logits_BV), device=logits_BV.device)
        tokens_B = choose(logits_BV, row_B, torch.full_like(row_B, so_far_BT.shape[1] - width))
        return torch.full_like(logits_BV, -torch.inf).scatter(1, tokens_B[:, None], 0.0)

    def complete_a_stop_string(so_far_BT: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        assert stopped is not None
        return stopped(torch.arange(len(so_far_BT), device=so_far_BT.device), so_far_BT[:, -1])

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
            stopping_criteria=None if stopped is None else [complete_a_stop_string],
        )
    return [_until_end(prompt, row, request) for prompt, row in zip(prompts, output[:, width:].tolist(), strict=True)]


def _until_end(prompt: Sequence[int], row: list[int], request: Request) -> list[int]:
    """The tokens up to the first one that ends the row."""
    ends = set(request.eos_ids)
    row = row[: next((count for count, token in enumerate(row, 1) if token in ends), len(row))]
    return row if request.stops is None else row[: request.stops.length(prompt, row)]


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
