"""Command-line flags for the fields of option dataclasses; each value gets the declared type."""

from __future__ import annotations

import argparse
import typing
from collections.abc import Sequence
from dataclasses import Field
from typing import Any, Final, NoReturn

from es_llm.config.checks import read_mapping, split_words, type_name, union_parts
from es_llm.config.fields import default_of, option_topics
from es_llm.config.foreign import unknown_option
from es_llm.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `ConfigError`, and suggests the nearest flag for an unknown one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise `ConfigError` instead of exiting, so that all ranks end alike."""
        raise ConfigError(message)

    def parse_known(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse all of `argv`."""
        space, rest = self.parse_known_args(argv)
        if rest:
            flags = [flag for action in self._actions for flag in action.option_strings]
            name = rest[0].split("=")[0]
            raise unknown_option(name, flags)
        return space


def add_options(parser: argparse.ArgumentParser, *classes: type) -> None:
    """Add one flag `--name` per option, in groups by topic. The namespace holds only the flags that were given."""
    hints = {name: declared for cls in classes for name, declared in typing.get_type_hints(cls).items()}
    for topic, specs in option_topics(*classes).items():
        group = parser.add_argument_group(topic)
        for spec in specs:
            name = spec.name
            keywords: dict[str, Any] = {"default": argparse.SUPPRESS, "help": _help(spec), "dest": name}
            declared, *others = union_parts(hints[name])
            if typing.get_origin(declared) is list:
                item = typing.get_args(declared)[0]
                keywords.update(nargs="*", action=_List, type=_item_converter(item, name), metavar=_metavar(item))
            elif typing.get_origin(declared) is dict:
                keywords.update(nargs="*", action=_Mapping, metavar="NAME=VALUE")
            else:
                keywords.update(type=_converter(declared, name, optional=bool(others)), metavar=_metavar(declared))
                if declared is bool:
                    keywords.update(nargs="?", const=True)
            group.add_argument(f"--{name}", **keywords)


class _List(argparse.Action):
    """Stores a list. An empty word, such as that of an empty shell variable, is no item."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, [value for value in values if value is not None])


class _Mapping(argparse.Action):
    """Collects NAME=VALUE words in a dict. Words of `optim_args` may be joined by commas, as in transformers. A
    repeated flag overrides the names that it has."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        words = split_words(",".join(values)) if self.dest == "optim_args" and values else values
        mapping = {**getattr(namespace, self.dest, {}), **read_mapping(self.dest, words)}
        setattr(namespace, self.dest, mapping)


def _converter(declared: Any, name: str, *, optional: bool = False) -> Any:
    def convert(text: str) -> Any:
        if optional and text.lower() == "none":
            return None
        try:
            return _TRUTH[text.lower()] if declared is bool else declared(text)
        except (KeyError, ValueError):
            message = f"`{name}` must be {type_name(declared)}, got {text!r}"
            raise argparse.ArgumentTypeError(message) from None

    return convert


def _item_converter(declared: Any, name: str) -> Any:
    convert = _converter(declared, name)
    return lambda text: convert(text) if text.strip() else None


_TRUTH: Final = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _metavar(declared: Any) -> str:
    return {bool: "BOOL", int: "INT", float: "FLOAT", str: "TEXT"}[declared]


def _help(spec: Field[Any]) -> str:
    default = default_of(spec)
    choices = f" ({' | '.join(spec.metadata['choices'])})" if spec.metadata["choices"] else ""
    shown = f" [{default}]" if default not in (None, [], {}) else ""
    return f"{spec.metadata['help']}{choices}{shown}".replace("%", "%%")
