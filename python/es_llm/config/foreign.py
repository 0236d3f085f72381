"""Errors for unknown options. For options of other trainers, `foreign.toml` has the text: what to use here instead."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from es_llm.config.fields import nearest
from es_llm.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["counterpart", "foreign_options", "tomllib", "unknown_argument", "unknown_option"]


def unknown_option(name: str, known: Iterable[str]) -> ConfigError:
    """The error for an unknown option. It names what to use instead, else the nearest known names."""
    bare = name.lstrip("-")
    reason = counterpart(bare) or foreign_options("in_python").get(bare)
    return ConfigError(f"unknown option {name!r}" + (f"; {reason}" if reason else nearest(name, known)))


def unknown_argument(name: str, value: Any, known: Iterable[str]) -> ConfigError | None:
    """The error for an unknown argument of `ESTrainer`. None for an argument of GRPOTrainer that requests nothing, such
    as `peft_config=None`."""
    reason = counterpart(name)
    if reason is not None and _requests_nothing(value):
        return None
    return ConfigError(f"ESTrainer has no argument {name!r}" + (f"; {reason}" if reason else nearest(name, known)))


def counterpart(name: str) -> str | None:
    """What to use instead of another trainer's option, or why nothing is needed; None for a name that is not listed."""
    prefixes = foreign_options("prefixes")
    reasons = (reason for prefix, reason in prefixes.items() if name.startswith(prefix))
    return foreign_options("options").get(name) or next(reasons, None)


@functools.cache
def foreign_options(kind: str) -> dict[str, str]:
    """Name -> text for one kind of names in `foreign.toml`, such as "options"."""
    return {name: entry["text"] for entry in _entries() for name in entry.get(kind, [])}


@functools.cache
def _entries() -> list[dict[str, Any]]:
    content = Path(__file__).with_name("foreign.toml").read_text(encoding="utf-8")
    entries: list[dict[str, Any]] = tomllib.loads(content)["entry"]
    return entries


def _requests_nothing(value: Any) -> bool:
    """True for None, and for a collection that is empty or holds only such values."""
    return value is None or (isinstance(value, list | tuple | dict) and all(map(_requests_nothing, value)))
