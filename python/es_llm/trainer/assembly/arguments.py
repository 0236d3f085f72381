"""What users hand to the trainer, checked: every fault is named before any work is lost."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import TrainingArguments

from es_llm.config import ESConfig, ScriptArguments
from es_llm.config.taken import ModelSource, Taken, taken_from
from es_llm.data.messages import checked_prompt
from es_llm.errors import ConfigError
from es_llm.types import Row

RESERVED_COLUMNS = ("prompts", "completions")
"""Names under which the trainer itself gives lists to reward functions; TRL calls them with two values for one name."""
IGNORED_COLUMNS = ("completion", "completion_ids", "trainer_state", "log_extra", "log_metric")
"""Columns that reward functions don't get, as in TRL: they get the trainer's own under these names, if any."""


def require_config(args: Any, model: Any, train_dataset: Any, script: ScriptArguments | None) -> Taken:
    """The options, or the defaults for None; options of another trainer as far as they mean the same here.

    Args:
        args: an `ESConfig`, or None, or any `TrainingArguments` of transformers, such as TRL's `GRPOConfig`.
        model: what the trainer was given; a module is loaded already.
        train_dataset: what the trainer was given; its length turns epochs into iterations.
        script: options of the command line, which say how to load a model.

    Raises:
        ConfigError: something else, or a value that can't be used.
    """
    if isinstance(args, TrainingArguments):
        rows = len(train_dataset) if hasattr(train_dataset, "__len__") else None
        return taken_from(args, rows=rows, loaded=isinstance(model, torch.nn.Module))
    if args is not None and not isinstance(args, ESConfig):
        raise ConfigError(f"`args` must be an ESConfig, got a {type(args).__name__}")
    source = ModelSource()
    if script is not None:
        source = ModelSource(model_revision=script.model_revision, trust_remote_code=script.trust_remote_code)
    return Taken(config=args or ESConfig(), source=source)


def require_model(model: Any) -> None:
    """Check that it is None, a name, or a module that can be asked for text.

    Raises:
        ConfigError: something else, such as a plain module, or one that is wrapped.
    """
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
    """A value in a message: its type, and what it is if that is one short line."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    kind = type(value).__name__
    text = repr(value)
    return f"{text} ({kind})" if len(text) <= _SHORT and "\n" not in text else f"a {kind}"


_SHORT = 60


def _model_hint(model: Any) -> str:
    """What to give instead of something that isn't a model."""
    if isinstance(model, type):
        return "; give a model made of it, such as what its `from_pretrained` returns"
    if isinstance(getattr(model, "model", None), torch.nn.Module):
        return "; give its `model`"
    if hasattr(model, "model_type") and hasattr(model, "to_dict"):
        return "; a configuration has no weights: give `AutoModelForCausalLM.from_config` of it for random ones"
    return ""


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
            f"`processing_class` must be a tokenizer, or None for the model's own, got {short(processing_class)}{hint}"
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
    """The rows of a data set as dicts that all have the same columns, `prompt` among them (see `checked_prompt`).

    Raises:
        ConfigError: no rows of columns, no `prompt`, a prompt that is neither text nor messages, messages in another
            format, a column that the trainer itself gives to rewards, or columns that differ; names the row.
    """
    if dataset is None:
        return []
    if isinstance(dataset, str | bytes | Mapping) or hasattr(dataset, "iloc") or not isinstance(dataset, Iterable):
        raise ConfigError(f"`{name}` must be a sequence of rows, got a {type(dataset).__name__}{_rows_hint(dataset)}")
    rows: list[Row] = []
    for index, row in enumerate(dataset):
        where = f"`{name}` row {index}"
        if not isinstance(row, Mapping):
            raise ConfigError(f"{where} must be a mapping of columns, got {_no_row(dataset, row)}")
        if "prompt" not in row:
            raise ConfigError(f"{where} must have a `prompt`, got the columns {sorted(map(str, row))}{_instead(row)}")
        if taken := [column for column in RESERVED_COLUMNS if column in row]:
            raise ConfigError(f"{where}: the columns {taken} are given to rewards by the trainer; rename them")
        kept = {column: value for column, value in row.items() if column not in IGNORED_COLUMNS}
        if rows and set(kept) != set(rows[0]):
            raise ConfigError(
                f"{where} must have the columns {sorted(map(str, rows[0]))}, got {sorted(map(str, kept))}"
            )
        rows.append({**kept, "prompt": checked_prompt(row["prompt"], where)})
    return rows


def _rows_hint(dataset: Any) -> str:
    """What to give instead of something that isn't a sequence of rows."""
    if hasattr(dataset, "iloc"):  # pandas, whose frames are sequences of names of columns
        return '; give `.to_dict("records")` of it'
    if hasattr(dataset, "to_pylist") or hasattr(dataset, "to_dicts"):
        return f"; give `.{'to_dicts' if hasattr(dataset, 'to_dicts') else 'to_pylist'}()` of it"
    if isinstance(dataset, str):
        return "; load it first, such as by `datasets.load_dataset`"
    if not isinstance(dataset, Mapping) or not dataset:
        return ""
    names = [str(name) for name in dataset]
    if all(hasattr(split, "column_names") for split in dataset.values()):
        split = "train" if "train" in names else names[0]
        return f" of the splits {', '.join(names)}; take one: [{split!r}]"
    return "; a mapping of columns becomes rows by `datasets.Dataset.from_dict`"


_CONVERSATIONS = ("messages", "conversations", "conversation")
_PROMPT_LIKE = (*_CONVERSATIONS, "question", "problem", "instruction", "query", "text", "input")


def _no_row(dataset: Any, row: Any) -> str:
    """What came in the place of a row. A `datasets.Dataset` with a format gives tables of one row each."""
    kind = f"{type(row).__module__}.{type(row).__qualname__}"
    if hasattr(dataset, "with_format") and hasattr(row, "columns"):
        return f"a {kind}: the data set has a format; take it off by dataset.with_format(None)"
    return short(row)


def _instead(row: Row) -> str:
    """How to make a prompt of a column that seems to be one."""
    if {"instruction", "input"} <= set(row):
        return (
            "; rows as Alpaca's have the question in two columns: join `instruction` and `input` (which may be empty) "
            "into one `prompt` by dataset.map"
        )
    name = next((name for name in _PROMPT_LIKE if name in row), None)
    if name is None:
        return ""
    answered = "; leave the assistant's answer at its end out" if name in _CONVERSATIONS else ""
    return f"; rename one by `dataset_columns` {name}=prompt, or dataset.rename_column({name!r}, 'prompt'){answered}"


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
