"""Sampled decoding. Its randomness is a function of an address: (seed, prompt, sample, step), equal on every rank.

One uniform number per token, from the same generator as the noise, picks the token by the inverse of the cumulative
probabilities. So a sample doesn't depend on the other rows of its batch, nor on earlier samples.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from es_llm.noise.streams import SAMPLES, random_words
from es_llm.rollout.decoder import Choose
from es_llm.rollout.padding import padded


def uniforms(seed: int, addresses: Sequence[tuple[int, int]], steps: int) -> NDArray[np.float64]:
    """Numbers in (0, 1), shape (B, steps), of B (prompt, sample) addresses."""
    prompts, samples = np.array(addresses, np.uint32).reshape(-1, 2, 1).swapaxes(0, 1)
    words = random_words(SAMPLES, seed, np.arange(-(-steps // 4)), prompts, samples)
    drawn: NDArray[np.float64] = (words.reshape(len(addresses), -1)[:, :steps].astype(np.float64) + 0.5) / 2.0**32
    return drawn


def sampler(seed: int, addresses: Sequence[tuple[int, int]], steps: int, temperature: float) -> Choose:
    """A function that draws the next tokens of B (prompt, sample) addresses from softmax(logits / temperature)."""
    drawn_BT = torch.from_numpy(uniforms(seed, addresses, steps))

    def choose(logits_BV: torch.Tensor, row_B: torch.Tensor, count_B: torch.Tensor) -> torch.Tensor:
        sums_BV = torch.softmax(logits_BV.double() / temperature, -1).cumsum(-1)
        wanted_B1 = drawn_BT.to(logits_BV.device)[row_B, count_B, None] * sums_BV[:, -1:]
        return torch.searchsorted(sums_BV, wanted_B1).squeeze(-1).clamp(max=logits_BV.shape[-1] - 1)

    return choose


@torch.inference_mode()
def token_log_probs(
    model: torch.nn.Module, rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int, temperature: float = 1.0
) -> list[torch.Tensor]:
    """Log probability of each token of each completion, given its prompt and the tokens before; float32.

    The probabilities are softmax(logits / temperature), those from which `sampler` draws.
    """
    device = next(model.parameters()).device
    ids_BT, mask_BT = padded([[*prompt, *completion] for prompt, completion in rows], pad_id, device)
    width = ids_BT.shape[1]
    position_BT = (mask_BT.cumsum(-1) - 1).clamp(min=0)
    accepted = inspect.signature(model.forward).parameters
    options = {"position_ids": position_BT} if "position_ids" in accepted else {}
    logits_BTV = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False, **options).logits
    found = []
    for row, (_, completion) in enumerate(rows):
        size = len(completion)
        logits_TV = logits_BTV[row, width - size - 1 : width - 1].float() / temperature
        found.append(torch.log_softmax(logits_TV, -1).gather(-1, ids_BT[row, width - size :, None]).squeeze(-1).cpu())
    return found
