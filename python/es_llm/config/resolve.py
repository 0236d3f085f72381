"""From layers to one configuration: paper's defaults < the embedded model's defaults < file < flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from es_llm.config.embedded import EMBEDDED_DEFAULTS
from es_llm.config.es import ESConfig
from es_llm.config.fields import option_fields
from es_llm.config.replaced import unknown_option
from es_llm.config.script import ScriptArguments
from es_llm.errors import ConfigError


def resolve(*layers: Mapping[str, Any]) -> tuple[ScriptArguments, ESConfig]:
    """Merge layers of options, later ones winning; `task_args` are merged name by name.

    With no `model_name_or_path` in any layer the embedded model's defaults lie below the first layer; with
    another task than the embedded model's, only its task options are left out.

    Raises:
        ConfigError: an unknown name, or a value out of range.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merge_options(merged, layer)
    if merged.get("model_name_or_path") is None:
        below: dict[str, Any] = {}
        merge_options(below, EMBEDDED_DEFAULTS)
        if merged.get("task") not in (None, "countdown") or merged.get("dataset_name"):
            del below["task_args"]
        merge_options(below, merged)
        merged = below
    if merged.get("task") is None and not merged.get("dataset_name"):
        merged["task"] = "countdown"
    script_names = option_fields(ScriptArguments)
    script = ScriptArguments(**{name: value for name, value in merged.items() if name in script_names})
    config = ESConfig(**{name: value for name, value in merged.items() if name not in script_names})
    return script, config


def as_mapping(script: ScriptArguments, config: ESConfig) -> dict[str, Any]:
    """All options as one flat mapping, as `config.json` holds it and `resolve` takes it."""
    return {**asdict(script), **asdict(config)}


def merge_options(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Add the options of `layer` to `into`.

    Raises:
        ConfigError: a name that is no option; suggests the nearest.
    """
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
