"""Checks of option values: types from the dataclass's annotations, ranges from the callers."""

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
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Final

from es_llm.errors import ConfigError


def require(config: Any, name: str, holds: Callable[[Any], bool], expected: str) -> None:
    """Check that `holds(value)` for one option of a dataclass.

    Raises:
        ConfigError: "`sigma` must be > 0 and finite, got -0.1".
    """
    value = getattr(config, name)
    if not holds(value):
        raise ConfigError(f"`{name}` must be {expected}, got {value!r}")


def check_types(config: Any) -> None:
    """Check the declared type and the choices of every option of a frozen dataclass, and make its values plain ones:
    a number of numpy or torch a Python number, an array a list, a path text, text such as "1e-3" the number it is where
    a number is declared (YAML reads that one as text)."""
    declared = declared_types(type(config))
    for spec in fields(config):
        value = getattr(config, spec.name)
        plain = _as_number(plain_value(value), declared[spec.name])
        if plain is not value:
            object.__setattr__(config, spec.name, plain)
        _check_type(spec.name, getattr(config, spec.name), declared[spec.name], spec.metadata["choices"])


def make_plain(config: Any, name: str) -> None:
    """Write the dates in a mapping of options as text: YAML makes dates of texts that look like them. All other values
    must be such as JSON holds, since the run's header and `config.json` hold them.

    Raises:
        ConfigError: a value that JSON doesn't know.
    """
    given = getattr(config, name)
    try:
        plain = json.loads(json.dumps(given, default=_as_text))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"`{name}` must hold texts, numbers, lists and mappings, got {given!r}: {error}") from error
    object.__setattr__(config, name, plain)


def _as_text(value: Any) -> str:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    raise TypeError(f"{value!r} is a {type(value).__name__}")


def plain_value(value: Any) -> Any:
    """A value of an option as JSON has it: numbers and arrays of numpy or torch as Python's, paths as text, types and
    devices of torch as their names, tuples as lists; also inside lists and mappings. Anything else stays as it is."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, dict):
        return {plain_value(key): plain_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(inner) for inner in value]
    if (named := _torch_name(value)) is not None:
        return named
    shape = getattr(value, "shape", None)
    if shape is not None and callable(getattr(value, "tolist", None)):
        return plain_value(value.tolist())
    if isinstance(value, enum.Enum):
        return plain_value(value.value)
    return str(value) if isinstance(value, str) else value


def _torch_name(value: Any) -> str | None:
    """The name of a type or a device of torch, such as "bfloat16" or "cuda:1"; None: it is neither. A value of torch
    can exist only where torch is loaded already, so this loads nothing."""
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, (torch.dtype, torch.device)):
        return None
    return str(value).removeprefix("torch.")


def _as_number(value: Any, declared: Any) -> Any:
    """Text with an exponent as a number, where a number is declared."""
    parts = typing.get_args(declared) if typing.get_origin(declared) in (typing.Union, types.UnionType) else (declared,)
    if isinstance(value, str) and float in parts and str not in parts and _EXPONENT.fullmatch(value.strip()):
        return float(value)
    lists = [part for part in parts if typing.get_origin(part) is list]
    if isinstance(value, list) and lists:
        return [_as_number(inner, typing.get_args(lists[0])[0]) for inner in value]
    return value


_EXPONENT: Final = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")


def declared_types(cls: type) -> dict[str, Any]:
    """Name -> resolved annotation of a dataclass."""
    return typing.get_type_hints(cls)


def type_name(declared: Any) -> str:
    """An annotation in words for messages."""
    if declared is type(None):
        return "none"
    if typing.get_origin(declared) in (typing.Union, types.UnionType):
        return " or ".join(type_name(part) for part in typing.get_args(declared))
    origin = typing.get_origin(declared) or declared
    names = {
        int: "an integer",
        float: "a number",
        str: "text",
        bool: "true or false",
        list: "a list",
        dict: "a mapping",
    }
    return names.get(origin, str(declared))


def _check_type(name: str, value: Any, declared: Any, choices: Sequence[str] | None) -> None:
    """Check one value against its annotation and its choices; an int is accepted where a float is declared."""
    if not _matches(value, declared):
        raise ConfigError(f"`{name}` must be {type_name(declared)}, got {value!r} ({type(value).__name__})")
    if choices and value is not None and value not in choices:
        raise ConfigError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}")


def _matches(value: Any, declared: Any) -> bool:
    origin = typing.get_origin(declared)
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, part) for part in typing.get_args(declared))
    if declared in (Any, None, type(None)):
        return declared is Any or value is None
    if declared is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if declared is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if origin is list:
        return isinstance(value, list | tuple) and all(_matches(v, typing.get_args(declared)[0]) for v in value)
    if origin is dict:
        return isinstance(value, dict)
    return isinstance(value, declared)
