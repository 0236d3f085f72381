"""`Population`: ask / tell over weights of any kind, for your own loop.

    population = Population(weights, sigma=0.1, learning_rate=0.05)
    while searching:
        fitness = [score(population.perturb(member)) for member in population.ask()]
        population.tell(fitness)

Members are indices, so they can be evaluated anywhere, in any order. Every process that creates the same population
and tells it the same fitness holds the same weights, bit for bit. Knows nothing about language models.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import numpy as np

from es_llm import _core
from es_llm.arrays import ArrayWeights
from es_llm.checkpoint.identity import decode_header, encode_header, read_journal, require_same_identity
from es_llm.checkpoint.replay import apply_records
from es_llm.config.es import ESConfig
from es_llm.errors import ConfigError, PopulationError
from es_llm.shaping import ShapingRule, checked, load_shaping

if TYPE_CHECKING:
    import torch

    from es_llm.model.weights import Weights

W = TypeVar("W", "np.ndarray[Any, Any]", "Mapping[str, np.ndarray[Any, Any]]", "torch.nn.Module")


class Population(Generic[W]):
    """A population of N perturbed copies of some weights (Qiu et al., arXiv 2509.24372, algorithm 2).

    Member n stands for theta + sign_n * sigma * noise_n; `tell` moves
    theta += learning_rate * (1/N) * sum_n Z_n * sign_n * noise_n, where Z are the shaped fitness values.
    theta is float32, and only `tell` writes it.

    Args:
        weights: a numpy array, a mapping of names to arrays (both are copied), or a `torch.nn.Module`, whose
            own parameters are trained if they require gradients.
        population_size: N.
        sigma: noise scale.
        learning_rate: the paper's alpha, with 1/sigma folded in.
        seed: run seed of the noise, in [0, 2**64).
        antithetic: members are mirrored pairs.
        shaping: name of a shaping rule ("zscore", "centered_rank"), `file.py:NAME`, or a function: fitness (M,) of the
            members that count, finite and not all equal -> their shaped fitness Z, M finite numbers.
        failure_policy: how a fitness of None or NaN counts: "worst", "zero" (the member takes no part) or "raise".
        perturbation: "dense", or "low_rank" for matrices: noise A B^T / sqrt(rank) with thin factors A and B.
        rank: columns of these factors.
        dtype: type of a module's live weights; default: the type of each parameter.
        trainable: name patterns of a module's parameters to train; default: all.
        frozen: name patterns of a module's parameters that keep their values; wins over `trainable`.
        journal: file of the run's records; if it exists, the population continues where the journal ends.

    Raises:
        ConfigError: an option is out of range.
        KernelError, ModelError: the weights can't be used.
        ResumeError: the journal is of another run.
    """

    def __init__(
        self,
        weights: W,
        *,
        population_size: int = 30,
        sigma: float = 1e-3,
        learning_rate: float = 5e-4,
        seed: int = 42,
        antithetic: bool = False,
        shaping: ShapingRule = "zscore",
        failure_policy: str = "worst",
        perturbation: str = "dense",
        rank: int = 1,
        dtype: str | None = None,
        trainable: Sequence[str] = (),
        frozen: Sequence[str] = (),
        journal: str | os.PathLike[str] | None = None,
    ) -> None:
        options: dict[str, Any] = {
            "population_size": population_size,
            "sigma": sigma,
            "learning_rate": learning_rate,
            "seed": seed,
            "antithetic": antithetic,
            "shaping": shaping if isinstance(shaping, str) else shaping.__name__,
            "failure_policy": failure_policy,
            "perturbation": perturbation,
            "rank": rank,
            "trainable": list(trainable),
            "frozen": list(frozen),
        }
        config = ESConfig(**options, dtype=dtype)
        self._sigma, self._learning_rate = config.sigma, config.learning_rate
        self._core = _core.Population(
            run_seed=seed,
            population_size=population_size,
            antithetic=antithetic,
            shaping=load_shaping(shaping) if isinstance(shaping, str) else checked(shaping, shaping.__name__),
            failure_policy=failure_policy,
        )
        self._weights = _store(weights, config)
        self._module: W | None = None if isinstance(self._weights, ArrayWeights) else weights
        self._writer = self._open(os.fspath(journal), config, options) if journal is not None else None

    @property
    def iteration(self) -> int:
        """Number of completed iterations, including those of the journal."""
        return self._core.iteration

    @property
    def weights(self) -> W:
        """The current weights, unperturbed: copies of the arrays, or the module itself."""
        return self._given(self._weights.unperturb())

    def ask(self) -> list[_core.Member]:
        """The N members of this iteration, in order."""
        return self._core.ask(sigma=self._sigma)

    def perturb(self, member: _core.Member) -> W:
        """The weights of one member of this iteration: new arrays, or the module with its weights replaced.

        Raises:
            PopulationError: the member is of another iteration.
        """
        if member.iteration != self.iteration:
            raise PopulationError(
                f"`member` must be of this iteration, {self.iteration}, got one of iteration {member.iteration}"
            )
        return self._given(self._weights.perturb(member))

    def tell(self, fitness: Sequence[float | None]) -> _core.Record:
        """Move the weights by the fitness of the N members, in the order of `ask`; higher is better.

        With a journal, the record is on the disk before the weights change.

        Raises:
            PopulationError: there are not as many values as members, or a value failed under "raise".
            JournalError: the record can't be written; the weights are unchanged.
        """
        values = _numbers(fitness)
        record = self._core.tell(values, sigma=self._sigma, learning_rate=self._learning_rate)
        if self._writer is not None:
            self._writer.append_record(record)
        apply_records([record], self._weights.update, self._core)
        self._weights.unperturb()
        return record

    def _given(self, arrays: Any) -> W:
        """The weights in the form that the user passed: new arrays, or the user's module, which is already written."""
        return cast("W", arrays if self._module is None else self._module)

    def _open(self, path: str, config: ESConfig, options: Iterable[str]) -> _core.JournalWriter:
        identity = {
            "noise_version": _core.NOISE_VERSION,
            "config": {name: getattr(config, name) for name in options},
            "model": {"base_sha256": self._weights.sha256()},
        }
        header = encode_header(identity, {})
        if not os.path.exists(path):
            return _core.JournalWriter.create(path, header)
        journal, saved = read_journal(path)
        require_same_identity(saved, decode_header(header, path), path)
        apply_records(journal.records, self._weights.update, self._core)
        self._weights.unperturb()
        return _core.JournalWriter.open(path)


def _numbers(fitness: Sequence[float | None]) -> list[float | None]:
    """The fitness as plain floats, with None for NaN: both are failures."""
    try:
        values = [None if value is None else float(value) for value in fitness]
    except (TypeError, ValueError) as error:
        raise PopulationError(f"fitness must be a sequence of numbers or None, got {fitness!r}: {error}") from error
    return [None if value is None or math.isnan(value) else value for value in values]


def _store(weights: Any, config: ESConfig) -> ArrayWeights | Weights:
    if isinstance(weights, np.ndarray | Mapping):
        return ArrayWeights(weights, perturbation=config.perturbation, rank=config.rank)
    if not hasattr(weights, "named_parameters"):
        kind = type(weights).__name__
        raise ConfigError(f"`weights` must be a numpy array, a mapping of arrays or a torch module, got a {kind}")
    from es_llm.model.selection import Selection
    from es_llm.model.table import ParameterTable
    from es_llm.model.weights import Weights

    selection = Selection(include=config.trainable, exclude=config.frozen)
    table = ParameterTable.from_module(
        weights,
        selection,
        perturbation=config.perturbation,
        rank=config.rank,
        vectors=config.vectors,
        embeddings=config.embeddings,
    )
    return Weights(weights, table, dtype=config.dtype)
