"""Where a noise value lives: the numbering contract, in the words of a Philox counter and key."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from es_llm._core import MAX_ELEMENTS, MAX_TENSORS
from es_llm.errors import KernelError, NoiseAddressError

KINDS: Final = {"dense": 0, "low_rank_a": 1, "low_rank_b": 2}
"""What a value is for, and its number in the counter: one value per weight, or one of a factor A or B."""


def kind_number(kind: str) -> int:
    """The number of a kind of noise.

    Raises:
        KernelError: no such kind.
    """
    if kind not in KINDS:
        raise KernelError(f"`kind` must be one of {', '.join(KINDS)}, got {kind!r}")
    return KINDS[kind]


def whole(value: Any, name: str) -> int:
    """A Python int of any integer, numpy's too, whose fixed width would overflow.

    Raises:
        NoiseAddressError: no integer; names the argument.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise NoiseAddressError(f"`{name}` must be an integer, got {value!r}") from None


@dataclass(frozen=True)
class NoiseAddress:
    """The address of one value; `element` is counted in the whole, unsharded tensor.

    Raises:
        NoiseAddressError: a word that is no integer, or out of its range.
    """

    run_seed: int
    iteration: int
    pair: int
    tensor: int
    element: int = 0

    def __post_init__(self) -> None:
        limits = {
            "run_seed": 1 << 64,
            "iteration": 1 << 32,
            "pair": 1 << 32,
            "tensor": MAX_TENSORS,
            "element": MAX_ELEMENTS,
        }
        for name, limit in limits.items():
            value = whole(getattr(self, name), name)
            object.__setattr__(self, name, value)
            if not 0 <= value < limit:
                raise NoiseAddressError(f"`{name}` must be in [0, {limit}), got {value}")

    @property
    def key(self) -> tuple[int, int]:
        """Philox key: the run seed, low half first."""
        return self.run_seed & 0xFFFF_FFFF, self.run_seed >> 32

    def counters(self, count: int, *, kind: str = "dense") -> NDArray[np.uint32]:
        """Philox counters, one row per block of four elements, of the blocks that hold `count` elements from here.

        c0 = low 32 bits of the block, c1 = kind (bits 31..28) | tensor (27..8) | bits 32..39 of the block (7..0),
        c2 = pair, c3 = iteration.

        Raises:
            NoiseAddressError: the last element is out of range.
            KernelError: no such kind.
        """
        if self.element + count > MAX_ELEMENTS:
            raise NoiseAddressError(
                f"elements must end at or before {MAX_ELEMENTS} (2**42), got {count} from `element` = {self.element}"
            )
        first, last = self.element // 4, (self.element + count + 3) // 4
        blocks = np.arange(first, last, dtype=np.uint64)
        counters = np.empty((len(blocks), 4), np.uint32)
        counters[:, 0] = blocks & np.uint64(0xFFFF_FFFF)
        counters[:, 1] = np.uint64(kind_number(kind) << 28 | self.tensor << 8) | blocks >> np.uint64(32)
        counters[:, 2] = self.pair
        counters[:, 3] = self.iteration
        return counters
