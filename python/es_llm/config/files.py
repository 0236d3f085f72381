"""Configuration files: YAML or TOML, one mapping of option names to values."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from es_llm.config.checks import EXPONENT
from es_llm.config.foreign import unknown_option
from es_llm.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def read_config(path: str | Path, known: set[str]) -> dict[str, Any]:
    """Read the options of a `.yaml`, `.yml` or `.toml` file."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {str(path)!r} can't be read: {error}") from error
    try:
        values = tomllib.loads(text) if path.suffix == ".toml" else yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"config file {str(path)!r} doesn't parse: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"config file {str(path)!r} must hold a mapping of options, got a {type(values).__name__}")
    for name in values:
        if name not in known:
            raise ConfigError(f"config file {str(path)!r}: {unknown_option(str(name), known)}")
    return values


def read_scalar(text: str) -> Any:
    """The value of YAML text, where `1e-3` is a number."""
    return yaml.load(text, Loader=_Loader)


def read_mapping(option: str, words: Iterable[str]) -> dict[str, Any]:
    """The mapping of an option from words NAME=VALUE; values are read as YAML, so that 3 is an integer."""
    mapping = {}
    for word in words:
        name, equals, value = word.strip().partition("=")
        if not equals or not name:
            raise ConfigError(f"`{option}` expects NAME=VALUE, got {word!r}")
        try:
            mapping[name] = read_scalar(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"`{option}`: the value of {name!r} doesn't parse: {value!r}") from error
    return mapping


class _Loader(yaml.SafeLoader):
    """Reads `1e-3` as a number; YAML 1.1 reads it as text."""


def _exponent_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)))


_Loader.add_implicit_resolver("!exponent", EXPONENT, list("-+.0123456789"))
_Loader.add_constructor("!exponent", _exponent_number)
