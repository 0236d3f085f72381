"""Every use of random numbers in this package, in one table, and the random words of the reserved streams.

A stream is a range of values of counter word 1 (see `docs/noise.md`), so two streams never share a number. Noise uses a
stream per kind; what is not noise uses a single value of kind 15.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from es_llm._core import NOISE_KINDS, philox4x32
from es_llm.errors import KernelError

DATA_ORDER: Final = 0xF000_0000
"""The order of the training data."""

SAMPLES: Final = 0xF100_0000
"""The choice of tokens of sampled completions, of evaluations."""

TRAINING_SAMPLES: Final = 0xF200_0000
"""The same, of training: equal for all members."""

STREAMS: Final[dict[str, range]] = {
    **{kind: range(number << 28, number + 1 << 28) for kind, number in NOISE_KINDS.items()},
    "data_order": range(DATA_ORDER, DATA_ORDER + 1),
    "samples": range(SAMPLES, SAMPLES + 1),
    "training_samples": range(TRAINING_SAMPLES, TRAINING_SAMPLES + 1),
}
"""Name of each stream, and the values of counter word 1 that belong to it."""


def random_words(stream: int, seed: int, first: ArrayLike, second: ArrayLike, third: ArrayLike) -> NDArray[np.uint32]:
    """Four random words (..., 4) for each value of counter words 0, 2 and 3, which broadcast.

    Args:
        stream: `DATA_ORDER`, `SAMPLES` or `TRAINING_SAMPLES`.
        seed: run seed, in [0, 2**64).
        first, second, third: counter words 0, 2 and 3, in [0, 2**32).
    """
    counters = np.stack(np.broadcast_arrays(first, stream, second, third), -1).astype(np.uint32)
    words = philox4x32(counters.reshape(-1, 4), (seed & 0xFFFF_FFFF, seed >> 32))
    return words.reshape(counters.shape)


def kind_number(kind: str) -> int:
    """The number of a kind of noise.

    Raises:
        KernelError: no such kind.
    """
    if kind not in NOISE_KINDS:
        raise KernelError(f"`kind` must be one of {', '.join(NOISE_KINDS)}, got {kind!r}")
    return NOISE_KINDS[kind]
