"""Prompts to token ids and padded batches; token ids to completions. Knows nothing of weights."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, final

import torch

from es_llm.data.messages import readable
from es_llm.errors import ConfigError, ModelError
from es_llm.rollout.decoder import Request
from es_llm.rollout.engine import Completion
from es_llm.rollout.form import special_tokens, template_marks
from es_llm.rollout.stops import StopStrings, token_bytes
from es_llm.types import Prompt

_REMEMBERED: Final = 1 << 16


@final
class PromptEncoder:
    """A tokenizer that caches the token ids of prompts: every member gets the same prompts.

    Text gets the special tokens that the tokenizer puts before it, unless it begins with them already, and none after
    it. Messages go through the chat template, which adds special tokens. If the last message is the assistant's, the
    completion continues it, as in TRL's `apply_chat_template`.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        embeddings: int,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        skip_special_tokens: bool = True,
    ) -> None:
        if tokenizer.pad_token_id is None:
            raise ModelError("the tokenizer has no pad token; set `tokenizer.pad_token`, for example to its eos token")
        self._tokenizer = tokenizer
        self._embeddings = embeddings
        self._template_kwargs = dict(chat_template_kwargs or {})
        self._skip_special_tokens = skip_special_tokens
        self._notices: dict[str, None] = {}
        self._require_embedded(tokenizer.pad_token_id, "the pad token")
        self._seen: dict[str, tuple[int, ...]] = {}

    @property
    def limit(self) -> int | None:
        """Number of tokens beyond which the tokenizer warns; None if it has no limit."""
        limit = getattr(self._tokenizer, "model_max_length", None)
        return limit if isinstance(limit, int) and limit > 0 else None

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of one prompt."""
        key = prompt if isinstance(prompt, str) else "\0" + json.dumps(prompt, default=repr)
        known = self._seen.get(key)
        if known is None:
            if len(self._seen) >= _REMEMBERED:
                self._seen.clear()
            known = self._seen[key] = self._tokenize(prompt)
        return known

    def stop_strings(self, strings: Sequence[str], device: torch.device) -> StopStrings | None:
        """Stop strings for this tokenizer, on the decoder's device; None without any."""
        if not strings:
            return None
        tokens = token_bytes(self._tokenizer, self._embeddings, partial(self._decoded, skip_special_tokens=False))
        return StopStrings(strings, tokens, device)

    def completions(
        self, prompts: Sequence[Sequence[int]], rows: Sequence[Sequence[int]], request: Request
    ) -> list[Completion]:
        """Completions from the ids of each prompt, and what `request` generated."""
        ends, stops = set(request.eos_ids), request.stops
        finished = [
            row[-1] in ends or (stops is not None and stops.length(prompt, row) is not None)
            for prompt, row in zip(prompts, rows, strict=True)
        ]
        texts = self._texts(rows, ends)
        return [Completion(*parts) for parts in zip(texts, map(tuple, rows), finished, strict=True)]

    def describe(self, prompt: Prompt) -> list[str]:
        """Lines for people: the prompt as the model gets it, with its special tokens and its line breaks as `\\n`; then
        what was done to the special tokens of any prompt so far."""
        ids = self.encode(prompt)
        (text,) = self._decoded([ids], skip_special_tokens=False)
        lines = [f"first prompt, {len(ids)} tokens: {_shown(text)}"]
        if self._skip_special_tokens and (named := self._special_tokens_named_by(readable(prompt))):
            lines.append(
                f"the first prompt names {', '.join(named)}: special tokens, which reward functions don't see in "
                "completions (`skip_special_tokens` false keeps them)"
            )
        return [*lines, *self._notices]

    def _special_tokens_named_by(self, text: str) -> list[str]:
        """Special tokens in a text that neither begin, end or pad texts nor come from the chat template."""
        known = {getattr(self._tokenizer, f"{kind}_token", None) for kind in ("bos", "eos", "pad", "unk")}
        known |= {*template_marks(self._tokenizer, self._template_kwargs)}
        return [token for token in special_tokens(self._tokenizer) if token in text and token not in known]

    def _texts(self, rows: Sequence[Sequence[int]], ends: set[int]) -> list[str]:
        if self._skip_special_tokens:
            return self._decoded(rows, skip_special_tokens=True)
        closing = ends | {self._tokenizer.pad_token_id}
        kept = [
            row[: len(row) - sum(1 for _ in itertools.takewhile(closing.__contains__, reversed(row)))] for row in rows
        ]
        return self._decoded(kept, skip_special_tokens=False)

    def _decoded(self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool) -> list[str]:
        """The decoded texts, unchanged: by default some tokenizers remove spaces before punctuation, or add spaces
        between special tokens."""
        words: dict[str, Any] = {"skip_special_tokens": skip_special_tokens, "clean_up_tokenization_spaces": False}
        if getattr(self._tokenizer, "is_fast", True) is False:
            words["spaces_between_special_tokens"] = False
        return list(self._tokenizer.batch_decode([list(row) for row in rows], **words))

    def _tokenize(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt, str):
            ids = self._of_text(_sound(prompt))
        else:
            if not getattr(self._tokenizer, "chat_template", None):
                raise ConfigError("prompts of messages need a tokenizer with a chat template, this one has none")
            text = _sound(self._written(prompt))
            ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            self._note_lost(prompt, text)
        if not ids:
            raise ConfigError(f"the prompt {prompt!r} has no tokens, expected at least one")
        self._require_embedded(max(ids), f"the prompt {prompt!r}")
        if ids[-1] == getattr(self._tokenizer, "eos_token_id", None):
            self._note(
                ids[-1:],
                "the end-of-sequence token, is the last token of a prompt: the prompt's text or the template has it",
            )
        return tuple(ids)

    def _of_text(self, text: str) -> list[int]:
        """Token ids of a text, led by the tokenizer's own special tokens. A text that a chat template wrote begins with
        them already. None follow: an end-of-sequence token there would end the answer before it begins."""
        whole, bare = (
            list(self._tokenizer(text, add_special_tokens=special)["input_ids"]) for special in (True, False)
        )
        if whole == bare:
            return bare
        starts = range(len(whole) - len(bare) + 1)
        start = next((start for start in starts if whole[start : start + len(bare)] == bare), None)
        if start is None:  # its special tokens change those of the text
            return whole
        before, behind = whole[:start], whole[start + len(bare) :]
        if behind:
            self._note(behind, "which the tokenizer puts behind each text, is left out of prompts")
        if before and self._begins_with(text, bare, before):
            self._note(before, "which the text of a prompt begins with, isn't put before it a second time")
            return bare
        return before + bare

    def _begins_with(self, text: str, bare: Sequence[int], before: Sequence[int]) -> bool:
        """True if the text begins with the special tokens; blanks before them are ignored (see `PromptForm`)."""
        if bare[: len(before)] == before:
            return True
        stripped = text.lstrip()
        if len(stripped) == len(text):
            return False
        return list(self._tokenizer(stripped, add_special_tokens=False)["input_ids"])[: len(before)] == before

    def _note(self, ids: Sequence[int], what: str) -> None:
        (text,) = self._decoded([ids], skip_special_tokens=False)
        self._notices[f"{text}, {what}"] = None

    def _note_lost(self, messages: Sequence[Any], text: str) -> None:
        """Note messages that the chat template leaves out or changes: some templates have no system message."""
        for message in messages:
            role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else ("", "")
            if role != "assistant" and isinstance(content, str) and content.strip() not in text:
                self._notices[f"the chat template leaves out, or changes, the {role} message of a prompt"] = None

    def _written(self, messages: Sequence[Any]) -> str:
        calls = any(isinstance(message, Mapping) and message.get("tool_calls") for message in messages)
        if calls and "tool_calls" not in str(self._tokenizer.chat_template):
            raise ConfigError(f"the chat template doesn't know the `tool_calls` of the prompt {messages!r}")
        last = messages[-1]
        continues = isinstance(last, Mapping) and last.get("role") == "assistant"
        words = {"add_generation_prompt": not continues, "continue_final_message": continues, **self._template_kwargs}
        try:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, **words))
        except Exception as error:  # a template is a program and may raise anything
            kind = type(error).__name__
            raise ConfigError(f"the chat template refuses the prompt {messages!r}: {kind}: {error}") from error

    def _require_embedded(self, token: int, what: str) -> None:
        if token >= self._embeddings:
            raise ModelError(
                f"{what} has token id {token}, but the model has only {self._embeddings} embeddings; "
                "expected the model's own tokenizer"
            )


def _sound(text: str) -> str:
    """The text, if it is valid Unicode. Tokenizers refuse lone surrogates with an error that doesn't name them."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the prompt {text!r} is no Unicode text: {error}") from error
    return text


def _shown(text: str, limit: int = 800) -> str:
    """The text in quotes, with escapes for all but printable characters; a long one without its middle."""
    if len(text) <= limit:
        return repr(text)
    half = limit // 2
    return f"{text[:half]!r} ... {len(text) - 2 * half} characters ... {text[-half:]!r}"
