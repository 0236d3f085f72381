"""Weights that are numpy arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_llm import _core
from es_llm.errors import ConfigError, KernelError
from es_llm.noise.perturbation import load_perturbation, noise_of


class ArrayWeights:
    """One array, or a mapping of arrays, whose order gives the tensor ids. Masters are float32 copies.

    Args:
        perturbation, rank: the noise of the arrays, see `load_perturbation`.

    Raises:
        KernelError: an array is empty, holds no real numbers, or holds NaN or infinities.
    """

    def __init__(
        self, weights: NDArray[Any] | Mapping[str, NDArray[Any]], *, perturbation: str = "dense", rank: int = 1
    ) -> None:
        self._single = isinstance(weights, np.ndarray)
        named = {"weights": weights} if isinstance(weights, np.ndarray) else weights
        if not named:
            raise ConfigError("`weights` must hold at least one array, got an empty mapping")
        self._masters = {name: _master(name, array) for name, array in named.items()}
        choose = load_perturbation(perturbation, rank)
        self._slices = [
            noise_of(tensor, master.shape, choose(name, master.shape))
            for tensor, (name, master) in enumerate(self._masters.items())
        ]

    def perturb(self, member: _core.Member) -> Any:
        """New arrays: master + sign * sigma * noise."""
        fresh = {name: np.empty_like(master) for name, master in self._masters.items()}
        noise, scale = _core.Noise(member.run_seed, member.iteration, member.pair), member.sign * member.sigma
        for live, master, at in zip(fresh.values(), self._masters.values(), self._slices, strict=True):
            _core.perturb(live, master, noise, scale, at, dtype="float32")
        return self._as_given(fresh)

    def unperturb(self) -> Any:
        """Copies of the masters."""
        return self._as_given({name: master.copy() for name, master in self._masters.items()})

    def update(self, record: _core.Record) -> None:
        """master += sum over the pairs of f32(learning rate / N * coefficient) * noise."""
        terms = _core.Terms(record.run_seed, record.iteration, record.sgd_coefficients())
        for master, at in zip(self._masters.values(), self._slices, strict=True):
            _core.accumulate(master, terms, at, dtype="float32")

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
            f"`{name}` must be finite in float32, got {int((~np.isfinite(master)).sum())} NaN or infinite values"
        )
    return master
