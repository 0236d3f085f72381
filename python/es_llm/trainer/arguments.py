"""What users hand to the trainer, checked: every fault is named before any work is lost."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from es_llm.config import ESConfig
from es_llm.errors import ConfigError
from es_llm.types import Row

RESERVED_COLUMNS = ("prompts", "completions")
"""Names under which the trainer itself gives lists to reward functions; TRL calls them with two values for one name."""
IGNORED_COLUMNS = ("completion", "completion_ids", "trainer_state", "log_extra", "log_metric")
"""Columns that reward functions don't get, as in TRL: they get the trainer's own under these names, if any."""


def require_config(args: ESConfig | None) -> ESConfig:
    """The options, or the defaults for None.

    Raises:
        ConfigError: something else than an `ESConfig`.
    """
    if args is None:
        return ESConfig()
    if not isinstance(args, ESConfig):
        raise ConfigError(f"`args` must be an ESConfig, got a {type(args).__name__}")
    return args


def require_model(model: Any) -> None:
    """Check that it is None, a name, or a module that can be asked for text.

    Raises:
        ConfigError: something else, such as a plain module, or one that is wrapped.
    """
    if model is not None and not isinstance(model, str | os.PathLike | torch.nn.Module):
        raise ConfigError(
            "`model` must be a model of transformers, a directory or hub id, or None for the embedded one, got "
            f"{model!r} ({type(model).__name__})"
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


_OF_MODELS = ("config", "generate", "get_input_embeddings", "save_pretrained")
_WRAPPED = ("module", "_orig_mod", "_fsdp_wrapped_module")
"""What data parallel, compiled and sharded wrappers call the module inside."""


def require_tokenizer(processing_class: Any) -> None:
    """Check that it is None, or has what is needed of a tokenizer.

    Raises:
        ConfigError: something else, such as a processor, or a tokenizer's name.
    """
    if processing_class is None:
        return
    if not callable(processing_class) or not all(hasattr(processing_class, name) for name in _OF_TOKENIZERS):
        hint = "; give its `tokenizer`" if hasattr(processing_class, "tokenizer") else ""
        raise ConfigError(
            "`processing_class` must be a tokenizer, or None for the model's own, got "
            f"{processing_class!r} ({type(processing_class).__name__}){hint}"
        )


_OF_TOKENIZERS = ("batch_decode", "pad_token_id")


def as_list(given: Any, name: str) -> list[Any]:
    """One thing or several, as a list; None is none.

    Raises:
        ConfigError: a text or a mapping.
    """
    if given is None:
        return []
    if isinstance(given, str | bytes | Mapping):
        raise ConfigError(f"`{name}` must hold objects, got {given!r}")
    return list(given) if isinstance(given, Iterable) and not callable(given) else [given]


def is_stream(dataset: Any) -> bool:
    """Whether it is a `datasets.IterableDataset`: rows as they are needed, and nobody knows how many."""
    return hasattr(dataset, "set_epoch") and not hasattr(dataset, "__len__")


def rows_of(dataset: Iterable[Row] | None, name: str) -> list[Row]:
    """The rows of a data set as dicts that all have the same columns, `prompt` among them.

    Raises:
        ConfigError: no rows of columns, no `prompt`, a prompt that is neither text nor messages, a column that the
            trainer itself gives to rewards, or columns that differ; names the row.
    """
    if dataset is None:
        return []
    if isinstance(dataset, str | bytes | Mapping) or not isinstance(dataset, Iterable):
        raise ConfigError(f"`{name}` must be a sequence of rows, got a {type(dataset).__name__}")
    rows: list[Row] = []
    for index, row in enumerate(dataset):
        where = f"`{name}` row {index}"
        if not isinstance(row, Mapping):
            raise ConfigError(f"{where} must be a mapping of columns, got {row!r}")
        if "prompt" not in row:
            raise ConfigError(f"{where} must have a `prompt`, got the columns {sorted(row)}")
        if not isinstance(row["prompt"], str | list) or not row["prompt"]:
            raise ConfigError(f"{where}: `prompt` must be text or messages, not empty, got {_told(row['prompt'])}")
        if taken := [column for column in RESERVED_COLUMNS if column in row]:
            raise ConfigError(f"{where}: the columns {taken} are given to rewards by the trainer; rename them")
        kept = {column: value for column, value in row.items() if column not in IGNORED_COLUMNS}
        if rows and set(kept) != set(rows[0]):
            raise ConfigError(f"{where} must have the columns {sorted(rows[0])}, got {sorted(kept)}")
        rows.append(kept)
    return rows


def _told(prompt: Any) -> str:
    told = f"{prompt!r} ({type(prompt).__name__})"
    number = isinstance(prompt, int | float) and not isinstance(prompt, bool)
    return f"{told}; a CSV's column of numbers is read as numbers: quote them in JSON" if number else told


def columns_of(row: Row) -> list[str]:
    """The columns that reward functions get; its `prompt` comes to them in `prompts`."""
    return [name for name in row if name != "prompt"]


def eval_sets(dataset: Any) -> dict[str, list[Row]]:
    """Held-out rows by the name of their set; one set without a name is "". Sets without rows are left out.

    Raises:
        ConfigError: see `rows_of`; or a name that is no text.
    """
    if not isinstance(dataset, Mapping):
        rows = rows_of(dataset, "eval_dataset")
        return {"": rows} if rows else {}
    sets: dict[str, list[Row]] = {}
    for name, rows in dataset.items():
        if not isinstance(name, str) or not name:
            raise ConfigError(f"`eval_dataset`: the name of a set must be a text, got {name!r}")
        if isinstance(rows, str | bytes):
            raise ConfigError(f"`eval_dataset` must be a sequence of rows, or several by name, got {dataset!r}")
        sets[name] = rows_of(rows, f"eval_dataset[{name!r}]")
    return {name: rows for name, rows in sets.items() if rows}
