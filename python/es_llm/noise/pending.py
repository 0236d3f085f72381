"""Results that are still on a device, and how those of a whole pass are read at once. Loads no torch by itself."""

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
class Pending(Generic[T]):
    """A result of which the `numbers` (n,) are on a device; `make` gives the result, of them as a list.

    Nothing has waited for it: `NoiseBackend.settle` does, once for all the results of a pass.
    """

    numbers: torch.Tensor
    make: Callable[[list[Any]], T]


def settled(results: Iterable[T | Pending[T]]) -> list[T]:
    """The results, those on a device (of one type of number) in one read; plain ones as they are."""
    results = list(results)
    waiting = [result.numbers for result in results if isinstance(result, Pending)]
    numbers = iter(_read(waiting))
    return [
        result.make(list(islice(numbers, len(result.numbers)))) if isinstance(result, Pending) else result
        for result in results
    ]


def _read(waiting: list[torch.Tensor]) -> list[Any]:
    if not waiting:
        return []
    import torch

    numbers: list[Any] = torch.cat(waiting).tolist()
    return numbers
