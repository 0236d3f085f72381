"""What a reward function says of itself, by a decorator."""

from __future__ import annotations

from typing import Any, TypeVar

Function = TypeVar("Function")

_INLINE = "es_llm_inline"
_SET_LEVEL = "es_llm_set_level"


def inline(function: Function) -> Function:
    """Mark a reward function as cheap, pure and bounded in time: it is called in the trainer's own process, with a
    whole batch, and without a time limit."""
    setattr(function, _INLINE, True)
    return function


def set_level(function: Function) -> Function:
    """Mark a reward function that sees all completions of a member together and returns one float for them.

    It gets the arguments of every reward function, as lists over all prompts of the iteration, in order; units of work
    are whole members then. In an evaluation the set is all rows; of n sampled answers, it is called for the first one
    of each row, for the second one of each, and so on.
    """
    setattr(function, _SET_LEVEL, True)
    return function


def is_inline(function: Any) -> bool:
    """Whether it was marked by `inline`."""
    return bool(getattr(function, _INLINE, False))


def is_set_level(function: Any) -> bool:
    """Whether it was marked by `set_level`."""
    return bool(getattr(function, _SET_LEVEL, False))
