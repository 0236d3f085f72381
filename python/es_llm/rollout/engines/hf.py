"""Rollouts with transformers in this process: one member at a time, caches within one call only.

The reference engine: it runs the module's own parameters as they are, so a member is the same model with other weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

import torch

from es_llm._core import Member
from es_llm.errors import ConfigError, ModelError
from es_llm.model.targets import Target, own_targets
from es_llm.rollout import decoder, decoding
from es_llm.rollout.decoder import Request
from es_llm.rollout.ends import end_ids, text_config
from es_llm.rollout.engine import Completion, LiveMember, Sampling
from es_llm.rollout.memory import Batch, ModelMemory, explain_out_of_memory
from es_llm.rollout.probe import Batching, Look, look, text_within
from es_llm.rollout.prompts import PromptEncoder
from es_llm.rollout.sampling import Sampler, token_log_probs
from es_llm.rollout.steady import steady
from es_llm.types import Prompt

Decode: TypeAlias = Callable[[Sequence[Sequence[int]], Sequence[int]], list[list[int]]]
"""(token ids of some prompts, which prompts these are) -> generated ids of each."""
_CONTEXT_NAMES: Final = ("max_position_embeddings", "n_positions", "max_seq_len")


class HFEngine:
    """Completions of a causal language model, greedy or sampled; see `RolloutEngine`, `LogProbs` and
    `SmallBatches`.

    Of the model's `generation_config` only the end-of-sequence ids are used; its temperature, penalties and lengths
    don't change greedy decoding. Nor do the module's mode, an autocast or torch's default type; all are restored after
    each call.

    The engine tests the model with two short prompts: `unused` are the names of the parameters that text doesn't reach,
    `batching` tells which prompts can share a batch. A model whose answer to a prompt depends on padding gets prompts
    of equal length in a batch, or one prompt at a time. `uses_decoder`: our own loop decodes, not `generate`.

    Args:
        loop: True decodes by our own loop over the forward pass, False by transformers' `generate`, the reference; both
            give the same tokens. None: our own loop if it supports the model. Other arguments: see `load_engine`.

    Raises:
        ConfigError: a length below 1.
        ModelError: an encoder-decoder model, a tokenizer without a pad token or with one that the model has
            no embedding for, an end-of-sequence token that can't be one, none anywhere, or a model that can't continue
            a text.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_completion_length: int,
        loop: bool | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        skip_special_tokens: bool = True,
        stop_strings: Sequence[str] = (),
        members_per_unit: int | None = None,
        prompts_per_unit: int = 1,
    ) -> None:
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
        self._eos_ids = end_ids(model, tokenizer)
        self.uses_decoder = decoder.is_supported(model) if loop is None else loop
        self._live: LiveMember | None = None
        self._memory: ModelMemory | None = None
        self._longest = 1
        self.members_per_unit = members_per_unit or self._members_per_unit(prompts_per_unit)
        self._request = Request(
            max_new_tokens=max_completion_length, eos_ids=self._eos_ids, pad_id=self._pad_id, share_prefix=False
        )
        seen = self._look()
        self.unused, self.batching = seen.unused, seen.batching
        stops = self._prompts.stop_strings(stop_strings, model.get_input_embeddings().weight.device)
        self._request = replace(self._request, share_prefix=seen.shares_prefixes, stops=stops)

    def targets(self) -> list[Target]:
        """The module's own parameters, without those that text doesn't reach."""
        return own_targets(self._model, self.unused)

    def attach(self, live: LiveMember) -> None:
        """Get members' weights from `live`; until then the module's weights are used as they are."""
        self._live = live

    def evaluate(
        self, members: Sequence[Member | None], prompts: Sequence[Prompt], sampling: Sampling | None = None
    ) -> list[list[Completion]]:
        """For each member, one completion per prompt; see `complete`."""
        found = []
        for member in members:
            self._switch(member)
            found.append(self.complete(prompts, sampling))
        return found

    def complete(self, prompts: Sequence[Prompt], sampling: Sampling | None = None) -> list[Completion]:
        """One completion per prompt with the weights as they are, decoded as one batch in the given order: greedy, or
        sampled.

        Raises:
            ConfigError: sampling, and a model that the decoder doesn't support.
        """
        if sampling is not None:
            self._require_sampling()
        return self._complete(prompts, lambda ids, rows: self._decode(ids, self._chosen(ids, rows, sampling)))

    def _require_sampling(self) -> None:
        if not decoder.is_supported(self._model):
            raise ConfigError(
                f"{type(self._model).__name__} can't be sampled from: the kind of its key-value cache isn't supported"
            )

    def _chosen(self, ids: Sequence[Sequence[int]], rows: Sequence[int], sampling: Sampling | None) -> Request:
        """The request for some prompts, and which of those in `sampling` they are."""
        if sampling is None:
            return self._request
        of_rows = replace(sampling, addresses=[sampling.addresses[row] for row in rows])
        return replace(self._request, choose=Sampler(of_rows, ids, self._max_completion_length))

    def log_probs(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Completion],
        base: Any = None,
        *,
        temperature: float = 1.0,
    ) -> list[torch.Tensor]:
        """Log probability of each token of the completions, sampled at this temperature: of the model without noise, or
        of `base`."""
        rows = [(self._prompts.encode(prompt), c.token_ids) for prompt, c in zip(prompts, completions, strict=True)]
        if base is None:
            self._switch(None)
        model = self._model if base is None else base
        found: dict[int, torch.Tensor] = {}
        with steady(model):
            lengths = [len(prompt) + len(tokens) for prompt, tokens in rows]
            for group in self._groups(lengths, self._request.most_rows):
                part = token_log_probs(model, [rows[row] for row in group], self._pad_id, temperature)
                found.update(zip(group, part, strict=True))
        return [found[row] for row in range(len(rows))]

    def notices(self) -> list[str]:
        """One line if batches are restricted for this model."""
        if self.batching is Batching.PADDED:
            return []
        return [
            f"{type(self._model).__name__} gives other answers when prompts of different lengths share a batch: "
            f"a batch holds {self.batching.value}, which is slower"
        ]

    def check_lengths(self, prompts: Sequence[Prompt]) -> None:
        """Refuse prompts that don't leave room for `max_completion_length` tokens in the model's context."""
        context = context_of(self._model.config)
        for row, prompt in enumerate(prompts):
            tokens = len(self._prompts.encode(prompt))
            self._longest = max(self._longest, tokens)
            if context is not None and tokens + self._max_completion_length > context:
                raise ConfigError(
                    f"prompt in row {row} has {tokens} tokens; with `max_completion_length` "
                    f"{self._max_completion_length} that is more than the model's context of {context}"
                )

    def describe(self, prompt: Prompt) -> list[str]:
        """Lines for people: the prompt exactly as the model gets it, and what was done to special tokens."""
        return self._prompts.describe(prompt)

    def limit_rows(self, rows: int | None) -> None:
        """Decode at most this number of rows at a time; None: all rows of a unit."""
        self._request = replace(self._request, most_rows=rows)

    def bytes_needed(self, members: int, prompts: int, rows: int | None, sampling: Sampling | None) -> int | None:
        """See `SmallBatches`; None for models that the decoder doesn't support."""
        if not self.uses_decoder:
            return None
        return self._model_memory().of_batch(self._batch(1, prompts, rows, sampling))

    def _model_memory(self) -> ModelMemory:
        if self._memory is None:
            with steady(self._model):
                self._memory = ModelMemory.of(self._model)
        return self._memory

    def _batch(self, members: int, prompts: int, rows: int | None, sampling: Sampling | None) -> Batch:
        """The largest batch of a unit of members with weights of their own."""
        if self.batching is Batching.ALONE:
            prompts = members = 1
        return Batch(
            rows=members * prompts,
            slots=min(members * prompts, rows or members * prompts),
            groups=members if self._request.share_prefix else 0,
            prompt=self._longest,
            new=self._max_completion_length,
            samples=sampling is not None and sampling.temperature > 0,
            penalizes=sampling is not None and sampling.repetition_penalty != 1,
        )

    def _members_per_unit(self, prompts: int) -> int:
        """The default: members that are evaluated together."""
        return 1

    def _switch(self, member: Member | None) -> None:
        if self._live is not None:
            self._live.switch(member)

    def _complete(self, prompts: Sequence[Prompt], decode: Decode) -> list[Completion]:
        ids = [self._prompts.encode(prompt) for prompt in prompts]
        found: dict[int, list[int]] = {}
        with steady(self._model):
            most = None if self.uses_decoder else self._request.most_rows
            for group in self._groups([len(row) for row in ids], most):
                found.update(zip(group, decode([ids[row] for row in group], group), strict=True))
        return self._prompts.completions(ids, [found[row] for row in range(len(ids))], self._request)

    def _groups(self, lengths: Sequence[int], most: int | None) -> list[list[int]]:
        """Rows that share a batch, given the number of tokens of each, and of rows in a batch at most (None: all)."""
        if self.batching is Batching.EQUAL:
            groups = [[row for row, own in enumerate(lengths) if own == length] for length in sorted(set(lengths))]
        else:
            groups = [list(range(len(lengths)))]
            most = 1 if self.batching is Batching.ALONE else most
        size = most or max(1, len(lengths))
        return [group[start : start + size] for group in groups for start in range(0, len(group), size)]

    def _look(self) -> Look:
        context = context_of(self._model.config)
        limits = [limit for limit in (context, self._prompts.limit) if limit is not None]
        ids = self._prompts.encode(text_within(min(limits, default=None)))
        with steady(self._model):
            return look(self._model, ids, self._first_logits, context)

    def _first_logits(self, rows: Sequence[Sequence[int]], after: Sequence[int], shared: bool) -> torch.Tensor:
        """Logits (steps, B, V) of the prompts' next tokens, each row continued with the tokens `after`.

        Args:
            shared: compute what the prompts begin with once.
        """
        seen: list[torch.Tensor] = []
        after_T = torch.tensor(after)

        def forced(logits_BV: torch.Tensor, row_B: torch.Tensor, count_B: torch.Tensor) -> torch.Tensor:
            seen.append(logits_BV.float().cpu())
            return after_T.to(logits_BV.device)[count_B]

        self._decode(
            rows,
            replace(self._request, max_new_tokens=len(after), eos_ids=(), choose=forced, share_prefix=shared),
        )
        return torch.stack(seen)

    def _decode(self, prompts: Sequence[Sequence[int]], request: Request) -> list[list[int]]:
        decode = decoder.decode if self.uses_decoder else decoding.generate
        with explain_out_of_memory(min(len(prompts), request.most_rows or len(prompts))):
            return decode(self._model, prompts, request)


build = HFEngine
"""Builds the engine named `hf`."""


def context_of(config: Any) -> int | None:
    """The number of positions that a configuration, or the text part of it, has; None: unknown."""
    for part in (text_config(config), config):
        for name in _CONTEXT_NAMES:
            size = getattr(part, name, None)
            if isinstance(size, int) and size > 0:
                return size
    return None
