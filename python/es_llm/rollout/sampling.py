"""Sampled decoding. Its randomness is a function of an address: (seed, prompt, sample, step), equal on every rank.

One uniform number per token, from the same generator as the noise, picks the token by the inverse of the cumulative
probabilities. So a sample doesn't depend on the other rows of its batch, nor on earlier samples.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from es_llm.noise.streams import random_words
from es_llm.rollout.engine import Sampling
from es_llm.rollout.padding import padded


def uniforms(stream: int, seed: int, addresses: Sequence[tuple[int, int]], steps: int) -> NDArray[np.float64]:
    """Numbers in (0, 1), shape (B, steps), of B (prompt, sample) addresses."""
    prompts, samples = np.array(addresses, np.uint32).reshape(-1, 2, 1).swapaxes(0, 1)
    words = random_words(stream, seed, np.arange(-(-steps // 4)), prompts, samples)
    drawn: NDArray[np.float64] = (words.reshape(len(addresses), -1)[:, :steps].astype(np.float64) + 0.5) / 2.0**32
    return drawn


@final
class Sampler:
    """Chooses the next tokens of R rows; a `Choose` of the decoder.

    Args:
        sampling: with one address per row.
        prompts: token ids of each row, for the repetition penalty.
        steps: tokens per row at most.
    """

    def __init__(self, sampling: Sampling, prompts: Sequence[Sequence[int]], steps: int) -> None:
        self._sampling, self._prompts = sampling, prompts
        drawn = uniforms(sampling.stream, sampling.seed, sampling.addresses, steps)
        self._drawn_RT = torch.from_numpy(drawn)
        self._seen_RV: torch.Tensor | None = None
        self._warpers = _warpers(sampling) if sampling.temperature > 0 else []

    def __call__(self, logits_BV: torch.Tensor, row_B: torch.Tensor, count_B: torch.Tensor) -> torch.Tensor:
        """The next tokens (B,) of some rows (B,) that have `count_B` tokens each, from logits (B, V)."""
        penalty = self._sampling.repetition_penalty
        if penalty != 1.0:
            seen_BV = self._seen(logits_BV)[row_B]
            penalized_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
            logits_BV = torch.where(seen_BV, penalized_BV, logits_BV)
        next_B = self._choice(logits_BV, row_B, count_B)
        if penalty != 1.0:
            self._seen(logits_BV)[row_B, next_B] = True
        return next_B

    def _choice(self, logits_BV: torch.Tensor, row_B: torch.Tensor, count_B: torch.Tensor) -> torch.Tensor:
        if self._sampling.temperature == 0:
            return logits_BV.argmax(-1)
        scores_BV = logits_BV.double() / self._sampling.temperature
        for warper in self._warpers:
            scores_BV = warper(None, scores_BV)
        sums_BV = torch.softmax(scores_BV, -1).cumsum(-1)
        if self._drawn_RT.device != logits_BV.device:
            self._drawn_RT = self._drawn_RT.to(logits_BV.device)
        wanted_B1 = self._drawn_RT[row_B, count_B, None] * sums_BV[:, -1:]
        return torch.searchsorted(sums_BV, wanted_B1).squeeze(-1).clamp(max=logits_BV.shape[-1] - 1)

    def _seen(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """Which tokens the prompt and the answer of each row have (R, V)."""
        if self._seen_RV is None:
            shape = (len(self._prompts), logits_BV.shape[-1])
            self._seen_RV = torch.zeros(shape, dtype=torch.bool, device=logits_BV.device)
            for row, prompt in enumerate(self._prompts):
                self._seen_RV[row, torch.tensor(list(prompt), device=logits_BV.device)] = True
        return self._seen_RV


def _warpers(sampling: Sampling) -> list[Callable[[Any, torch.Tensor], torch.Tensor]]:
    """transformers' own filters, in its order."""
    from transformers.generation import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    chosen: list[Callable[[Any, torch.Tensor], torch.Tensor]] = []
    if sampling.top_k > 0:
        chosen.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1.0:
        chosen.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p > 0.0:
        chosen.append(MinPLogitsWarper(sampling.min_p))
    return chosen


@torch.inference_mode()
def token_log_probs(
    model: torch.nn.Module, rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int, temperature: float = 1.0
) -> list[torch.Tensor]:
    """Log probability of each token of each completion, given its prompt and the tokens before; float32.

    The probabilities are softmax(logits / temperature), those from which `Sampler` draws without filters.
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
