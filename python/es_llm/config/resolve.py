"""From layers to one configuration: paper's defaults < the embedded model's defaults < file < flags.

A configuration file is YAML or TOML: one mapping of option names to values.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from es_llm.config.checks import YamlLoader
from es_llm.config.es import ESConfig
from es_llm.config.fields import option_fields
from es_llm.config.foreign import tomllib, unknown_option
from es_llm.config.script import DEFAULT_TASK, ScriptArguments
from es_llm.errors import ConfigError

EMBEDDED_DEFAULTS: Final[dict[str, Any]] = {
    "population_size": 24,
    "sigma": 0.008,
    "learning_rate": 0.012,
    "max_steps": 60,
    "prompts_per_iteration": 64,
    "max_completion_length": 12,
    "dtype": "float32",
    "task_args": {"style": "compact", "train_size": 6400, "eval_size": 500},
}
"""Defaults of a run on the embedded model."""


def resolve(*layers: Mapping[str, Any]) -> tuple[ScriptArguments, ESConfig]:
    """Merge layers of options, later ones winning; `task_args` are merged name by name.

    If no layer has `model_name_or_path`, the embedded model's defaults lie below the first layer. Its `task_args` are
    left out for another task or data set.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        _merge(merged, layer)
    if merged.get("model_name_or_path") is None:
        below = dict(EMBEDDED_DEFAULTS)
        if merged.get("task") not in (None, DEFAULT_TASK) or merged.get("dataset_name"):
            del below["task_args"]
        _merge(below, merged)
        merged = below
    if merged.get("task") is None and not merged.get("dataset_name"):
        merged["task"] = DEFAULT_TASK
    script_names = option_fields(ScriptArguments)
    script = ScriptArguments(**{name: value for name, value in merged.items() if name in script_names})
    config = ESConfig(**{name: value for name, value in merged.items() if name not in script_names})
    return script, config


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    known = option_fields(ScriptArguments, ESConfig)
    for name, value in layer.items():
        if name not in known:
            raise unknown_option(name, known)
        if name == "task_args":
            if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
                raise ConfigError(f"`task_args` must be a mapping of names to values, got {value!r}")
            into[name] = {**into.get(name, {}), **value}
        else:
            into[name] = value


def read_config(path: str | Path, known: set[str]) -> dict[str, Any]:
    """Read the options of a `.yaml`, `.yml` or `.toml` file."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {str(path)!r} can't be read: {error}") from error
    try:
        values = tomllib.loads(text) if path.suffix == ".toml" else yaml.load(text, Loader=YamlLoader)
    except (yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"config file {str(path)!r} doesn't parse: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"config file {str(path)!r} must hold a mapping of options, got a {type(values).__name__}")
    for name in values:
        if name not in known:
            raise ConfigError(f"config file {str(path)!r}: {unknown_option(str(name), known)}")
    return values
