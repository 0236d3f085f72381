"""How options are declared: dataclass fields with a help text, a range, a topic, and whether they decide the bits of a
run."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Final, TypeVar

Options = TypeVar("Options")


@dataclass(frozen=True)
class Range:
    """The values that an option may have, among those of its type."""

    contains: Callable[[Any], bool]
    text: str
    """For messages and documentation, such as "> 0"."""


POSITIVE: Final = Range(lambda value: 0 < value < float("inf"), "> 0")
NOT_NEGATIVE: Final = Range(lambda value: 0 <= value < float("inf"), ">= 0")
UINT32: Final = Range(lambda value: 0 < value < 2**32, "> 0 and < 2**32")
FLOAT32: Final = Range(lambda value: 1e-45 <= value <= 3e38, "> 0 and in the range of float32")


def option(
    default: Any = MISSING,
    *,
    help: str,
    identity: bool = False,
    choices: Sequence[str] | None = None,
    within: Range | None = None,
    topic: str | None = None,
) -> Any:
    """A dataclass field.

    Args:
        default: the value of an option that nobody sets (a list or dict is copied).
        help: what the option does, with its unit.
        identity: the option decides the bits of the run; resume refuses another value.
        choices: the only strings allowed.
        within: the range of allowed values; None as a value is always allowed where the type allows it.
        topic: heading of a group of options that starts here, in `--help` and in docs/options.md.
    """
    metadata = {"help": help, "identity": identity, "choices": choices, "within": within, "topic": topic}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def refuse_unknown(error: Callable[[str, Iterable[str]], Exception]) -> Callable[[type[Options]], type[Options]]:
    """A decorator: the dataclass raises `error(name, known names)` for an option that it doesn't have."""

    def decorate(cls: type[Options]) -> type[Options]:
        init, known = cls.__init__, option_fields(cls)

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


def option_topics(*classes: type) -> dict[str, list[Field[Any]]]:
    """Topic -> its options, in order. Groups of the same topic are merged, where the last of them stands."""
    topics: dict[str, list[Field[Any]]] = {}
    group: list[Field[Any]] = []
    for spec in option_fields(*classes).values():
        if spec.metadata["topic"] is not None:
            group = topics.pop(spec.metadata["topic"], [])
            topics[spec.metadata["topic"]] = group
        group.append(spec)
    return topics


def default_of(spec: Field[Any]) -> Any:
    """The default value of an option."""
    return spec.default_factory() if spec.default_factory is not MISSING else spec.default


def identity_of(config: Any) -> dict[str, Any]:
    """The options that decide the bits of a run, as plain values."""
    return {spec.name: getattr(config, spec.name) for spec in fields(config) if spec.metadata["identity"]}


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?` with the nearest known names, or an empty text if no known name is near."""
    close = difflib.get_close_matches(name, sorted(known), n=2)
    return f"; did you mean {' or '.join(repr(candidate) for candidate in close)}?" if close else ""
