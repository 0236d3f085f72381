"""Which implementation of attention a model uses."""

from __future__ import annotations

from typing import Any

from es_llm.errors import ModelError


def use_attention(model: Any, implementation: str | None) -> Any:
    """The model, with attention as "eager", "sdpa" or another implementation known to transformers; None: its own.

    Raises:
        ModelError: the model or this environment has no such implementation.
    """
    if implementation is not None:
        try:
            model.set_attn_implementation(implementation)
        except Exception as error:  # transformers raises ImportError, ValueError or KeyError for what is missing
            raise ModelError(f"`attn_implementation` {implementation!r} can't be used: {error}") from error
    return model
