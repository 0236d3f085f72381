"""Checks of what an engine returns: its targets and its completions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from es_llm.config.fields import nearest
from es_llm.errors import ConfigError
from es_llm.model.targets import Target
from es_llm.rollout.engine import Completion

_SHOWN: Final = 200
"""Characters of a wrong result that a message shows."""


def checked_targets(engine: str, targets: Any, parameters: Collection[str]) -> list[Target]:
    """The targets of the engine with this name, for a model with these parameters.

    Raises:
        ConfigError: something is no target, or names no parameter.
    """
    listed = list(targets) if isinstance(targets, Sequence) else [targets]
    for target in listed:
        if not isinstance(target, Target):
            raise ConfigError(
                f"engine {engine!r}: `targets` must return a list of `{Target.__module__}.Target`, got a "
                f"{type(target).__name__}"
            )
        if target.name not in parameters:
            raise ConfigError(
                f"engine {engine!r}: target {target.name!r} is no parameter of the model"
                f"{nearest(target.name, parameters)}"
            )
    return listed


def checked_completions(engine: str, returned: Any, members: int, prompts: int) -> list[list[Completion]]:
    """What `evaluate` of the engine with this name returned for this number of members and prompts.

    Raises:
        ConfigError: it isn't one list per member with one completion per prompt.
    """
    if isinstance(returned, Sequence) and len(returned) == members and all(_is_row(own, prompts) for own in returned):
        return [list(own) for own in returned]
    raise ConfigError(
        f"engine {engine!r}: `evaluate` must return one list of completions per member, here {members} list(s) of "
        f"{prompts} `{Completion.__module__}.Completion`, got {' '.join(repr(returned).split())[:_SHOWN]}"
    )


def _is_row(own: Any, prompts: int) -> bool:
    return isinstance(own, Sequence) and len(own) == prompts and all(isinstance(each, Completion) for each in own)
