"""Engines that turn prompts into completions of members. A new engine is one file, found by name: see `load_engine`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from es_llm.errors import ConfigError
from es_llm.plugins import guarded, load_function, names_in
from es_llm.rollout import engines
from es_llm.rollout.engine import RolloutEngine

BUILTIN: Final = names_in(engines.__name__, engines.__path__, "build")
"""Name of a built-in engine -> where it is."""


def load_engine(
    name: str,
    model: Any,
    tokenizer: Any,
    *,
    max_completion_length: int,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    skip_special_tokens: bool = True,
    stop_strings: Sequence[str] = (),
    members_per_unit: int | None = None,
    prompts_per_unit: int = 1,
) -> RolloutEngine:
    """Build the engine `name`: `build` of a file in `rollout/engines`, an entry point of the group `es_llm.engines`, or
    `file.py:name` (see `es_llm.plugins`). It is called as this function is, without the name.

    Args:
        name: `hf` evaluates one member at a time and is the reference; `batched` evaluates low-rank members together.
        model: a transformers model.
        tokenizer: the model's, with a pad token.
        max_completion_length: new tokens per completion at most.
        chat_template_kwargs: further arguments of the tokenizer's chat template.
        skip_special_tokens: decode completions without special tokens; else only without those at their ends.
        stop_strings: a completion ends with the token that completes one of them, and keeps it.
        members_per_unit: members that an `evaluate` gets; None: the engine's choice.
        prompts_per_unit: prompts that an `evaluate` gets at most.

    Raises:
        ConfigError: there is no such engine, it can't be imported, or it lacks methods of `RolloutEngine`.
        ModelError: the engine can't run this model.
    """
    build = load_function("engine", name, BUILTIN, attribute="build")
    if name not in BUILTIN:
        build = guarded(f"engine {name!r}", build)
    engine: RolloutEngine = build(
        model,
        tokenizer,
        max_completion_length=max_completion_length,
        chat_template_kwargs=chat_template_kwargs,
        skip_special_tokens=skip_special_tokens,
        stop_strings=stop_strings,
        members_per_unit=members_per_unit,
        prompts_per_unit=prompts_per_unit,
    )
    methods = [method for method in vars(RolloutEngine) if not method.startswith("_")]
    if missing := [method for method in methods if not hasattr(engine, method)]:
        raise ConfigError(
            f"engine {name!r}: {type(engine).__name__} has no {', '.join(f'`{each}`' for each in missing)}"
        )
    return engine
