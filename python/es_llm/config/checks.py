"""Checks of option values against their dataclass: type, choices, range."""

from __future__ import annotations

import datetime
import enum
import json
import math
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import Field, fields
from typing import Any, Final

import yaml
from yaml.constructor import ConstructorError

from es_llm.errors import ConfigError

EXPONENT: Final = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+\Z")
"""A number with an exponent and maybe no point, such as 1e-3. YAML 1.1 reads it as text."""


def check_options(config: Any) -> None:
    """Check every option of a frozen dataclass, and replace its values by plain ones (see `plain_value`). Text such as
    "1e-3" becomes a number where a number is declared."""
    declared = typing.get_type_hints(type(config))
    for spec in fields(config):
        value = getattr(config, spec.name)
        plain = _as_number(plain_value(value), declared[spec.name])
        _check(spec, plain, declared[spec.name])
        if isinstance(plain, dict):
            plain = _as_json(spec.name, plain)
        if plain is not value:
            object.__setattr__(config, spec.name, plain)


def require(config: Any, name: str, holds: Callable[[Any], bool], expected: str) -> None:
    """Check one option against others.

    Raises:
        ConfigError: `holds(value)` is false: "`population_size` must be even with `antithetic`, got 5".
    """
    value = getattr(config, name)
    if not holds(value):
        raise ConfigError(f"`{name}` must be {expected}, got {value!r}")


def plain_value(value: Any) -> Any:
    """A value as JSON has it: numbers and arrays of numpy or torch as Python's, paths and dates as text, types and
    devices of torch as their names, tuples as lists; also inside lists and mappings. Other values stay as they are."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, dict):
        return {plain_value(key): plain_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(inner) for inner in value]
    if getattr(value, "shape", None) is not None and callable(getattr(value, "tolist", None)):
        return plain_value(value.tolist())
    if isinstance(value, enum.Enum):
        return plain_value(value.value)
    return _as_text(value)


def _as_text(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    torch = sys.modules.get("torch")  # a value of torch exists only where torch is loaded
    if torch is not None and isinstance(value, torch.dtype | torch.device):
        return str(value).removeprefix("torch.")
    return str(value) if isinstance(value, str) else value


def _as_json(name: str, value: dict[Any, Any]) -> Any:
    """A mapping as it is after a journey through JSON, since the journal's header and `config.json` hold it."""
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"`{name}` must hold texts, numbers, lists and mappings, got {value!r}: {error}") from error


def _as_number(value: Any, declared: Any) -> Any:
    parts = union_parts(declared)
    if isinstance(value, str) and float in parts and str not in parts and EXPONENT.match(value.strip()):
        return float(value)
    lists = [part for part in parts if typing.get_origin(part) is list]
    if isinstance(value, list) and lists:
        return [_as_number(inner, typing.get_args(lists[0])[0]) for inner in value]
    return value


def type_name(declared: Any) -> str:
    """An annotation in words, such as "an integer or none"."""
    if len(parts := union_parts(declared)) > 1:
        return " or ".join(map(type_name, parts))
    names = {
        int: "an integer",
        float: "a number",
        str: "text",
        bool: "true or false",
        list: "a list",
        dict: "a mapping",
        type(None): "none",
    }
    return names.get(typing.get_origin(declared) or declared, str(declared))


def allowed_values(spec: Field[Any], declared: Any) -> str:
    """The values that an option may have, in words, such as "an integer > 0, or none"."""
    if spec.metadata["choices"]:
        return f"one of {', '.join(spec.metadata['choices'])}"
    if spec.metadata["within"] is None:
        return type_name(declared)
    first, *others = union_parts(declared)
    kind = "" if first is str else f"{type_name(first)} "
    return f"{kind}{spec.metadata['within'].text}{', or none' if others else ''}"


def _check(spec: Field[Any], value: Any, declared: Any) -> None:
    if not _matches(value, declared):
        raise ConfigError(f"`{spec.name}` must be {type_name(declared)}, got {value!r} ({type(value).__name__})")
    if value is None:
        return
    choices, within = spec.metadata["choices"], spec.metadata["within"]
    if (choices and value not in choices) or (within and not within.contains(value)):
        raise ConfigError(f"`{spec.name}` must be {allowed_values(spec, declared)}, got {value!r}")


def _matches(value: Any, declared: Any) -> bool:
    """True if the value has the declared type; an int is accepted where a float is declared."""
    if len(parts := union_parts(declared)) > 1:
        return any(_matches(value, part) for part in parts)
    if declared in (Any, None, type(None)):
        return declared is Any or value is None
    if declared is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if declared is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if typing.get_origin(declared) is list:
        return isinstance(value, list) and all(_matches(inner, typing.get_args(declared)[0]) for inner in value)
    return isinstance(value, typing.get_origin(declared) or declared)


def union_parts(declared: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type."""
    is_union = typing.get_origin(declared) in (typing.Union, types.UnionType)
    return typing.get_args(declared) if is_union else (declared,)


def split_words(text: str) -> list[str]:
    """The words of a text that joins them by commas. A comma in a list, a mapping or quotes joins nothing."""
    return _WORD.findall(text) or [text]


_WORD: Final = re.compile(r"""(?:\[[^]]*\]|\{[^}]*\}|"[^"]*"|'[^']*'|[^,])+""")


def read_mapping(option: str, words: Iterable[str]) -> dict[str, Any]:
    """The mapping of an option from words NAME=VALUE; values are read as YAML, so that 3 is an integer. An empty word
    sets nothing.

    Raises:
        ConfigError: another word, a value that is no YAML, or a name that has two values.
    """
    mapping: dict[str, Any] = {}
    for word in filter(str.strip, words):
        name, equals, value = word.strip().partition("=")
        if not equals or not name:
            raise ConfigError(f"`{option}` expects NAME=VALUE, got {word!r}")
        if name in mapping:
            raise ConfigError(f"`{option}` must have one value for each name, got a second one for {name!r}: {value!r}")
        try:
            mapping[name] = yaml.load(value, Loader=YamlLoader)
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", error)
            raise ConfigError(f"`{option}`: the value of {name!r} doesn't parse: {value!r}: {problem}") from error
    return mapping


class YamlLoader(yaml.SafeLoader):
    """Reads `1e-3` as a number, which YAML 1.1 reads as text. Refuses a mapping with two values for one name."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise ConstructorError(None, None, f"two values for {name!r}", node.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def _exponent_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(str(loader.construct_scalar(node)))


YamlLoader.add_implicit_resolver("!exponent", EXPONENT, list("-+.0123456789"))
YamlLoader.add_constructor("!exponent", _exponent_number)
