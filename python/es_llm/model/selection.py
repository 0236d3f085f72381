"""Selects the parameters to train by patterns of their names."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import final

import torch

from es_llm.errors import ModelError


@final
@dataclass(frozen=True)
class Selection:
    """Patterns of names (`fnmatch`, case-sensitive). A pattern selects a tied weight by any of its names.

    Args:
        include: parameters to train; empty: all.
        exclude: parameters that keep their values; wins over `include`.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def of(self, module: torch.nn.Module) -> set[int]:
        """The `id` of each selected weight.

        Raises:
            ModelError: a pattern matches no parameter; gives the nearest names.
        """
        named = list(module.named_parameters(remove_duplicate=False))
        found = {id(weight) for _, weight in named}
        if self.include:
            found = _matches(named, self.include, "trainable")
        return found - _matches(named, self.exclude, "frozen")


def _matches(named: Sequence[tuple[str, torch.nn.Parameter]], patterns: Sequence[str], option: str) -> set[int]:
    """The `id` of each weight that a pattern matches."""
    found: set[int] = set()
    for pattern in patterns:
        hits = {id(weight) for name, weight in named if fnmatchcase(name, pattern)}
        if not hits:
            names = [name for name, _ in named]
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise ModelError(
                f"`{option}`: the pattern {pattern!r} matches no parameter; the nearest names are {', '.join(near)}"
            )
        found |= hits
    return found
