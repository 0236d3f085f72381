"""The tokens that end an answer: all that the model's files and its tokenizer name, since each may be out of date."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from es_llm.errors import ModelError


def end_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The end-of-sequence ids of the generation defaults, the configuration (that of its text part too) and the
    tokenizer, together, in this order.

    For example, the generation defaults may name a base model's end, and an instruct tokenizer another one: both count.
    An id that is only the default of a configuration's class, and ordinary text to the tokenizer, doesn't count.
    """
    limit = model.get_input_embeddings().weight.shape[0]
    found: list[int] = []
    supposed: list[int] = []
    for where, source in _sources(model, tokenizer):
        for token in _listed(getattr(source, "eos_token_id", None)):
            _require_id(token, where, limit)
            by_default = where.endswith("config") and token == _class_default(source)
            (supposed if by_default and not _is_special(tokenizer, token) else found).append(int(token))
    if not found and not supposed:
        raise ModelError("neither the model nor the tokenizer names an end-of-sequence token, expected at least one")
    return tuple(dict.fromkeys(found or supposed))


def _sources(model: Any, tokenizer: Any) -> Iterator[tuple[str, Any]]:
    yield "the model's generation_config", getattr(model, "generation_config", None)
    yield "the model's config", model.config
    text = text_config(model.config)
    if text is not model.config:
        yield "the model's text_config", text
    yield "the tokenizer", tokenizer


def text_config(config: Any) -> Any:
    """The text part of a configuration; the configuration itself if it has no parts."""
    get = getattr(config, "get_text_config", None)
    return config if get is None else get(decoder=True)


def _listed(ids: Any) -> list[Any]:
    if ids is None:
        return []
    return list(ids) if isinstance(ids, list | tuple | set) else [ids]


def _require_id(token: Any, where: str, limit: int) -> None:
    if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < limit:
        raise ModelError(f"`eos_token_id` of {where} holds {token!r}, expected integers in [0, {limit})")


def _class_default(config: Any) -> Any:
    if not hasattr(config, "model_type"):
        return None  # generation defaults have no class default
    try:
        return type(config)().eos_token_id
    except Exception:  # a class that needs arguments has no default
        return None


def _is_special(tokenizer: Any, token: int) -> bool:
    special = set(getattr(tokenizer, "all_special_ids", ()))
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return token in special or token in added
