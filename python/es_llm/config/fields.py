"""How an option is declared: a dataclass field with a help text and, for some, a say in the run's identity."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, Field, field, fields
from typing import Any, TypeVar

Options = TypeVar("Options")


def option(default: Any = MISSING, *, help: str, identity: bool = False, choices: Sequence[str] | None = None) -> Any:
    """A dataclass field.

    Args:
        default: its value when nobody sets it (a list or dict is copied).
        help: what the option does, with its unit.
        identity: the option decides the bits of the run; resume refuses another value.
        choices: the only strings allowed.
    """
    metadata = {"help": help, "identity": identity, "choices": choices}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def refuse_unknown(error: Callable[[str, Iterable[str]], Exception]) -> Callable[[type[Options]], type[Options]]:
    """Make a dataclass of options raise `error(name, known names)` for an option that it doesn't have."""

    def decorate(cls: type[Options]) -> type[Options]:
        init = cls.__init__
        known = {spec.name for spec in fields(cls)}  # type: ignore[arg-type]

        @functools.wraps(init)
        def checked(self: Any, **options: Any) -> None:
            for name in options:
                if name not in known:
                    raise error(name, known)
            init(self, **options)

        cls.__init__ = checked  # type: ignore[method-assign]
        return cls

    return decorate


def option_fields(*classes: type) -> dict[str, Field[Any]]:
    """Name -> field of every option of these dataclasses, in order."""
    return {spec.name: spec for cls in classes for spec in fields(cls)}


def identity_of(config: Any) -> dict[str, Any]:
    """The options that decide the bits of a run, as plain values."""
    return {spec.name: getattr(config, spec.name) for spec in fields(config) if spec.metadata["identity"]}


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` for a name that isn't known, or nothing when no known name is near."""
    close = difflib.get_close_matches(name, sorted(known), n=2)
    return f"; did you mean {' or '.join(repr(candidate) for candidate in close)}?" if close else ""
