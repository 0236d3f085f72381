"""Weights that were saved from a module around the model: their names begin with what the module calls the model."""

from __future__ import annotations

from collections.abc import Collection


def wrapper_of(missing: Collection[str], unexpected: Collection[str]) -> str | None:
    """The prefix that all unexpected names have, and that makes unexpected names of the missing ones; None: there is
    none. Names that the files alone have, such as those of a tied head or of an adapter, may have it too.

    Args:
        missing: names that the model has and the files lack.
        unexpected: names that the files have and the model lacks.
    """
    found = set(unexpected)
    for name in sorted(missing, key=len, reverse=True):
        for other in sorted(found):
            prefix = other.removesuffix(name)
            if other.endswith(f".{name}") and all(key.startswith(prefix) for key in found):
                return prefix
    return None


def advice(prefix: str) -> str:
    """What weights with this prefix were saved from, and how to save them without it."""
    inner = f"model.{prefix[:-1]}"
    if prefix.startswith("base_model."):
        return "they were saved from a model with an adapter (PEFT); save what its `merge_and_unload()` returns"
    return (
        "they were saved from a module around the model (such as data parallel, compiled, sharded or a trainer's); "
        f"save the model inside, such as `{inner}.save_pretrained`, or cut {prefix!r} off each name"
    )
