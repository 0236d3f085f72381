"""Rollouts with transformers in this process. A unit is one batch; caches live within one call only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch

from es_llm.errors import ConfigError, ModelError
from es_llm.rollout import greedy
from es_llm.rollout.engine import Completion
from es_llm.rollout.prompts import PromptEncoder
from es_llm.rollout.sampling import sampler, token_log_probs
from es_llm.types import Prompt


@final
class HFEngine:
    """Greedy completions of a causal language model; see `RolloutEngine`.

    The model's `generation_config` gives the end-of-sequence ids and nothing else: a temperature, penalty or
    length that it holds can't change greedy decoding.

    Args:
        model: a transformers model, on any device; its weights may change between calls.
        tokenizer: with a pad token; pads on the left whatever its `padding_side`.
        max_completion_length: new tokens per completion at most.
        temperature: 0; sampling is not built.
        loop: decode by our own loop over the forward pass (None: where the model's kind allows it), or by
            transformers' `generate`, the reference. Both give the same tokens.
        chat_template_kwargs: further arguments of the tokenizer's chat template.
        skip_special_tokens: decode completions without special tokens; else only without those at their ends.

    Raises:
        ConfigError: a temperature above 0, or a length below 1.
        ModelError: an encoder-decoder model, a tokenizer without a pad token or with one that the model has
            no embedding for, or no end-of-sequence token anywhere.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_completion_length: int,
        temperature: float = 0.0,
        loop: bool | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        skip_special_tokens: bool = True,
    ) -> None:
        if temperature != 0.0:
            raise ConfigError(f"`temperature` must be 0 (greedy decoding), got {temperature}: sampling is not built")
        if max_completion_length < 1:
            raise ConfigError(f"`max_completion_length` must be >= 1, got {max_completion_length}")
        if getattr(model.config, "is_encoder_decoder", False):
            raise ModelError(f"{type(model).__name__} is an encoder-decoder model, expected a causal language model")
        embeddings = model.get_input_embeddings().weight.shape[0]
        self._prompts = PromptEncoder(
            tokenizer,
            embeddings=embeddings,
            chat_template_kwargs=chat_template_kwargs,
            skip_special_tokens=skip_special_tokens,
        )
        self._model = model
        self._max_completion_length = max_completion_length
        self._pad_id = int(tokenizer.pad_token_id)
        self._eos_ids = _eos_ids(model, tokenizer)
        self._loop = greedy.is_supported(model) if loop is None else loop

    def evaluate(self, prompts: Sequence[Prompt]) -> list[Completion]:
        """One completion per prompt, decoded as one batch in the given order.

        Raises:
            ConfigError: a prompt without tokens, or messages without a chat template.
            ModelError: a token that the model has no embedding for.
        """
        if not prompts:
            return []
        device = self._model.get_input_embeddings().weight.device
        ids_BT, mask_BT = (words_BT.to(device) for words_BT in self._prompts.batch(prompts))
        decode = self._decode if self._loop else self._generate
        return self._prompts.completions(decode(ids_BT, mask_BT), self._eos_ids)

    def sample(
        self, prompts: Sequence[Prompt], places: Sequence[tuple[int, int]], *, seed: int, temperature: float
    ) -> list[Completion]:
        """One sampled completion per prompt; `places` are their (prompt, sample) numbers, which with the seed decide.

        Raises:
            ConfigError: a prompt without tokens, or a model whose kind our own loop doesn't know.
            ModelError: a token that the model has no embedding for.
        """
        if not greedy.is_supported(self._model):
            raise ConfigError(
                f"{type(self._model).__name__} can't be sampled from here: its cache is of an unknown kind"
            )
        device = self._model.get_input_embeddings().weight.device
        ids_BT, mask_BT = (words_BT.to(device) for words_BT in self._prompts.batch(prompts))
        choose = sampler(seed, places, self._max_completion_length, temperature)
        return self._prompts.completions(self._decode(ids_BT, mask_BT, choose), self._eos_ids)

    def log_probs(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        model: Any = None,
        *,
        temperature: float = 1.0,
    ) -> list[torch.Tensor]:
        """Log probability of each token of the completions, as `sample` draws them at this temperature, under the live
        weights, or under another model's."""
        rows = [(self._prompts.encode(prompt), c.token_ids) for prompt, c in zip(prompts, completions, strict=True)]
        return token_log_probs(self._model if model is None else model, rows, self._pad_id, temperature)

    def weights_changed(self) -> None:
        """Nothing to forget: no value that depends on the weights outlives `evaluate`."""

    def check_lengths(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts that don't leave room for `max_completion_length` tokens in the model's context.

        Raises:
            ConfigError: names the row, its tokens, `max_completion_length` and the context.
        """
        context = getattr(self._model.config, "max_position_embeddings", None)
        for row, prompt in enumerate(prompts):
            tokens = len(self._prompts.encode(prompt))
            if context is not None and tokens + self._max_completion_length > context:
                raise ConfigError(
                    f"prompt in row {row} has {tokens} tokens; with `max_completion_length` "
                    f"{self._max_completion_length} that is more than the model's context of {context}"
                )

    def describe(self, prompt: Prompt) -> list[str]:
        """Lines for people: the prompt exactly as the model gets it, and what was done to special tokens."""
        return self._prompts.describe(prompt)

    def _decode(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor, choose: Any = None) -> torch.Tensor:
        return greedy.decode(
            self._model,
            ids_BT,
            mask_BT,
            max_new_tokens=self._max_completion_length,
            eos_ids=self._eos_ids,
            pad_id=self._pad_id,
            choose=choose,
        )

    @torch.inference_mode()
    def _generate(self, ids_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        from transformers import GenerationConfig

        config = GenerationConfig(
            max_new_tokens=self._max_completion_length,
            do_sample=False,
            num_beams=1,
            use_cache=True,
            pad_token_id=self._pad_id,
            eos_token_id=list(self._eos_ids),
        )
        with _no_defaults(self._model):
            output: torch.Tensor = self._model.generate(
                input_ids=ids_BT, attention_mask=mask_BT, generation_config=config
            )
        return output[:, ids_BT.shape[1] :]


@contextmanager
def _no_defaults(model: Any) -> Iterator[None]:
    """Hide the model's generation defaults: `generate` fills every option that is None from them."""
    from transformers import GenerationConfig

    saved = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = saved


def _eos_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """End-of-sequence ids of the model's generation defaults, else of its configuration, else the tokenizer's."""
    sources = (getattr(model, "generation_config", None), model.config, tokenizer)
    for source in sources:
        ids = getattr(source, "eos_token_id", None)
        if ids is not None:
            return tuple(int(token) for token in (ids if isinstance(ids, (list, tuple)) else [ids]))
    raise ModelError("neither the model nor the tokenizer names an end-of-sequence token, expected at least one")
