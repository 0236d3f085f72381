"""Reward functions in TRL's contract. The decorators here say how a function may be called.

`batch` is what a function receives and returns, `call` calls one, `reward_set` combines several, `workers` runs them in
processes that can be killed.
"""

from __future__ import annotations

from typing import Any, TypeVar

Function = TypeVar("Function")

_INLINE = "es_llm_inline"
_SET_LEVEL = "es_llm_set_level"


def inline(function: Function) -> Function:
    """Mark a reward function as cheap, pure and bounded in time.

    It is called in the trainer's own process, with a whole batch, and without a time limit.
    """
    setattr(function, _INLINE, True)
    return function


def set_level(function: Function) -> Function:
    """Mark a reward function that sees all completions of a member together and returns one float for them.

    It receives the arguments of every reward function, as lists over all prompts of the iteration, in order. Each unit
    of work is then a whole member. In an evaluation the set is all rows. For n sampled completions per row, the
    function is called n times: for the first completion of each row, for the second one of each row, and so on.
    """
    setattr(function, _SET_LEVEL, True)
    return function


def is_inline(function: Any) -> bool:
    """True if the function is marked by `inline`."""
    return bool(getattr(function, _INLINE, False))


def is_set_level(function: Any) -> bool:
    """True if the function is marked by `set_level`."""
    return bool(getattr(function, _SET_LEVEL, False))
