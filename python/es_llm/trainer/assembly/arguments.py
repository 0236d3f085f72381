"""What users hand to the trainer, checked: every fault is named before any work is lost."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import TrainingArguments

from es_llm.config import ESConfig, ScriptArguments
from es_llm.config.adopt import Adopted, ModelSource, adopt_arguments
from es_llm.errors import ConfigError


def require_config(args: Any, model: Any, train_dataset: Any, script: ScriptArguments | None) -> Adopted:
    """The options: those given, the defaults for None, or those of another trainer that mean the same here."""
    if isinstance(args, TrainingArguments):
        rows = len(train_dataset) if hasattr(train_dataset, "__len__") else None
        return adopt_arguments(args, rows=rows, loaded=isinstance(model, torch.nn.Module))
    if args is not None and not isinstance(args, ESConfig):
        raise ConfigError(f"`args` must be an ESConfig, got a {type(args).__name__}")
    source = ModelSource()
    if script is not None:
        source = ModelSource(model_revision=script.model_revision, trust_remote_code=script.trust_remote_code)
    return Adopted(config=args or ESConfig(), source=source)


def require_model(model: Any) -> None:
    """Check that `model` is None, a name, or a module that generates text."""
    if model is not None and not isinstance(model, str | os.PathLike | torch.nn.Module):
        raise ConfigError(
            "`model` must be a model of transformers, a directory or hub id, or None for the embedded one, got "
            f"{short(model)}{_model_hint(model)}"
        )
    if not isinstance(model, torch.nn.Module):
        return
    for inner in _WRAPPED:
        if inner in model._modules:
            raise ConfigError(
                f"`model` is wrapped (a {type(model).__name__}), expected the module inside: give `model.{inner}`; "
                "each rank has a model of its own, and the ranks share the work by themselves"
            )
    if missing := [name for name in _OF_MODELS if not hasattr(model, name)]:
        raise ConfigError(
            f"`model` must be a causal language model of transformers, got a {type(model).__name__} without "
            f"{', '.join(f'`{name}`' for name in missing)}; for other modules there is `es_llm.Population`"
        )


def short(value: Any) -> str:
    """A value for a message: its type, and its `repr` if that is one short line."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind = type(value).__name__
    text = repr(value)
    return f"{text} ({kind})" if len(text) <= _SHORT and "\n" not in text else f"a {kind}"


_SHORT = 60


def _model_hint(model: Any) -> str:
    if isinstance(model, type):
        return "; give an instance, such as its `from_pretrained` returns"
    if isinstance(getattr(model, "model", None), torch.nn.Module):
        return "; give its `model`"
    if hasattr(model, "model_type") and hasattr(model, "to_dict"):
        return "; a configuration has no weights: give `AutoModelForCausalLM.from_config` of it for random ones"
    return ""


_OF_MODELS = ("config", "generate", "get_input_embeddings", "save_pretrained")
_WRAPPED = ("module", "_orig_mod", "_fsdp_wrapped_module")
"""Names of the inner module in data parallel, compiled and sharded wrappers."""


def require_tokenizer(processing_class: Any) -> None:
    """Check that `processing_class` is None, or has the methods of a tokenizer that are needed."""
    if processing_class is None:
        return
    if not callable(processing_class) or not all(hasattr(processing_class, name) for name in _OF_TOKENIZERS):
        hint = "; give its `tokenizer`" if hasattr(processing_class, "tokenizer") else ""
        raise ConfigError(
            f"`processing_class` must be a tokenizer, or None for the model's own, got {short(processing_class)}{hint}"
        )


_OF_TOKENIZERS = ("batch_decode", "pad_token_id")


def as_list(given: Any, name: str) -> list[Any]:
    """One object or several, as a list; empty for None."""
    if given is None:
        return []
    if isinstance(given, str | bytes | Mapping):
        raise ConfigError(f"`{name}` must hold objects, got {given!r}")
    return list(given) if isinstance(given, Iterable) and not callable(given) else [given]
