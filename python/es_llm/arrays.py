"""Weights that are numpy arrays: the smallest thing a population can move."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_llm import _core
from es_llm.errors import ConfigError, KernelError


class ArrayWeights:
    """One array, or a mapping of arrays (tensor ids follow its order). Masters are float32 copies.

    Raises:
        KernelError: an array that holds no real numbers, or NaN or infinities.
    """

    def __init__(self, weights: NDArray[Any] | Mapping[str, NDArray[Any]]) -> None:
        self._single = isinstance(weights, np.ndarray)
        named = {"weights": weights} if isinstance(weights, np.ndarray) else weights
        if not named:
            raise ConfigError("`weights` must hold at least one array, got an empty mapping")
        self._masters = {name: _master(name, array) for name, array in named.items()}

    def perturb(self, member: _core.Member) -> Any:
        """Fresh arrays: fma(sign * sigma, noise, master)."""
        fresh = {name: np.empty_like(master) for name, master in self._masters.items()}
        for tensor, (live, master) in enumerate(zip(fresh.values(), self._masters.values(), strict=True)):
            _core.perturb_into(
                live.reshape(-1),
                master.reshape(-1),
                dtype="float32",
                scale=member.sign * member.sigma,
                run_seed=member.run_seed,
                iteration=member.iteration,
                pair=member.pair,
                tensor=tensor,
            )
        return self._as_given(fresh)

    def unperturb(self) -> Any:
        """Copies of the masters."""
        return self._as_given({name: master.copy() for name, master in self._masters.items()})

    def update(self, record: _core.Record) -> None:
        """master += sum over the pairs of f32(learning rate / N * coefficient) * noise."""
        coefficients = record.sgd_coefficients()
        for tensor, master in enumerate(self._masters.values()):
            _core.accumulate(
                master.reshape(-1),
                dtype="float32",
                pairs=range(len(coefficients)),
                coefficients=coefficients,
                run_seed=record.run_seed,
                iteration=record.iteration,
                tensor=tensor,
            )

    def sha256(self) -> str:
        """SHA-256 over the masters, little-endian, in order."""
        hasher = hashlib.sha256()
        for master in self._masters.values():
            hasher.update(master.astype("<f4", copy=False).data)
        return hasher.hexdigest()

    def _as_given(self, arrays: dict[str, NDArray[np.float32]]) -> Any:
        return arrays["weights"] if self._single else arrays


def _master(name: str, array: NDArray[Any]) -> NDArray[np.float32]:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu" or array.size == 0:
        raise KernelError(f"`{name}` must be an array of real numbers that isn't empty, got {array!r}")
    master = np.array(array, np.float32, order="C")
    if not np.isfinite(master).all():
        raise KernelError(
            f"`{name}` must be finite in float32, got {int((~np.isfinite(master)).sum())} values that aren't"
        )
    return master
