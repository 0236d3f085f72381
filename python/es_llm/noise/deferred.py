"""Results that are still on a device, and one read for all results of a pass. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar, final

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


@final
@dataclass(frozen=True)
class Deferred(Generic[T]):
    """A result whose `numbers` (n,) are on a device; `make` turns them, as a list, into the result.

    Nothing has waited for the numbers: `NoiseBackend.settle` does, once for all results of a pass.
    """

    numbers: torch.Tensor
    make: Callable[[list[Any]], T]


def settled(results: Iterable[T | Deferred[T]]) -> list[T]:
    """All results: deferred ones, which must have one type of number, by one read of the device; others unchanged."""
    results = list(results)
    deferred = [result.numbers for result in results if isinstance(result, Deferred)]
    numbers = iter(_read(deferred))
    return [
        result.make(list(islice(numbers, len(result.numbers)))) if isinstance(result, Deferred) else result
        for result in results
    ]


def _read(deferred: list[torch.Tensor]) -> list[Any]:
    if not deferred:
        return []
    import torch

    numbers: list[Any] = torch.cat(deferred).tolist()
    return numbers
