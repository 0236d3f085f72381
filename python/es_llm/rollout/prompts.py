"""Prompts to token ids and units to padded batches; token ids to completions. Knows nothing of weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, final

import torch

from es_llm.errors import ConfigError, ModelError
from es_llm.rollout.engine import Completion, Prompt

_REMEMBERED: Final = 1 << 16


@final
class PromptEncoder:
    """A tokenizer that remembers the prompts it has seen: every member gets the same ones.

    Text gets the tokenizer's own special tokens; messages go through its chat template, which brings them. Where the
    last message is the assistant's, the completion goes on with it, as in TRL's `apply_chat_template`.

    Args:
        tokenizer: with a pad token.
        embeddings: rows of the model's embedding; token ids must be below.
        chat_template_kwargs: further arguments of its chat template.

    Raises:
        ModelError: no pad token, or one without an embedding.
    """

    def __init__(
        self, tokenizer: Any, *, embeddings: int, chat_template_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        if tokenizer.pad_token_id is None:
            raise ModelError("the tokenizer has no pad token; set `tokenizer.pad_token`, for example to its eos token")
        self._tokenizer = tokenizer
        self._embeddings = embeddings
        self._template_kwargs = dict(chat_template_kwargs or {})
        self._require_embedded(tokenizer.pad_token_id, "the pad token")
        self._seen: dict[str, tuple[int, ...]] = {}

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of one prompt.

        Raises:
            ConfigError: messages without a chat template, or that it refuses, or a prompt without tokens.
            ModelError: a token without an embedding: another model's tokenizer.
        """
        key = prompt if isinstance(prompt, str) else "\0" + json.dumps(prompt)
        known = self._seen.get(key)
        if known is None:
            if len(self._seen) >= _REMEMBERED:
                self._seen.clear()
            known = self._seen[key] = self._tokenize(prompt)
        return known

    def batch(self, prompts: Sequence[Prompt]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask of a unit, both (B, T) int64, padded on the left."""
        rows = [self.encode(prompt) for prompt in prompts]
        width = max(len(row) for row in rows)
        pad = self._tokenizer.pad_token_id
        ids_BT = torch.tensor([(pad,) * (width - len(row)) + row for row in rows])
        mask_BT = torch.tensor([(0,) * (width - len(row)) + (1,) * len(row) for row in rows])
        return ids_BT, mask_BT

    def completions(self, generated_BT: torch.Tensor, eos_ids: Sequence[int]) -> list[Completion]:
        """Completions from generated ids (B, T): cut after the first end-of-sequence token."""
        ends = set(eos_ids)
        rows: list[tuple[int, ...]] = []
        finished: list[bool] = []
        for row in generated_BT.tolist():
            stop = next((place for place, token in enumerate(row) if token in ends), None)
            finished.append(stop is not None)
            rows.append(tuple(row if stop is None else row[: stop + 1]))
        texts = self._tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [Completion(*parts) for parts in zip(texts, rows, finished, strict=True)]

    def _tokenize(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, str):
            ids = self._tokenizer(_sound(prompt))["input_ids"]
        else:
            if not getattr(self._tokenizer, "chat_template", None):
                raise ConfigError("prompts of messages need a tokenizer with a chat template, this one has none")
            text = _sound(self._written(prompt))
            ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ConfigError(f"the prompt {prompt!r} has no tokens, expected at least one")
        self._require_embedded(max(ids), f"the prompt {prompt!r}")
        return tuple(ids)

    def _written(self, messages: Sequence[Any]) -> str:
        """Messages as text."""
        last = messages[-1]
        goes_on = isinstance(last, Mapping) and last.get("role") == "assistant"
        words = {"add_generation_prompt": not goes_on, "continue_final_message": goes_on, **self._template_kwargs}
        try:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, **words))
        except Exception as error:  # a template is a program; it raises what it likes
            kind = type(error).__name__
            raise ConfigError(f"the chat template refuses the prompt {messages!r}: {kind}: {error}") from error

    def _require_embedded(self, token: int, what: str) -> None:
        if token >= self._embeddings:
            raise ModelError(
                f"{what} has token id {token}, but the model has only {self._embeddings} embeddings; "
                "expected the model's own tokenizer"
            )


def _sound(text: str) -> str:
    """The text, if it is one: lone surrogates have no UTF-8, and tokenizers refuse them without saying so."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the prompt {text!r} is no Unicode text: {error}") from error
    return text
