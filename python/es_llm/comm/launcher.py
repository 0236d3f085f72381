"""Reads the launcher's variables: the number of ranks, and the rank of this process. Loads no MPI.

A launcher that doesn't belong to mpi4py's MPI starts N processes that each seem to be alone: N equal runs side by side.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from es_llm.errors import ConfigError

_SIZES: Final = {
    "OMPI_COMM_WORLD_SIZE": "Open MPI's mpirun",
    "PMI_SIZE": "MPICH's or Intel MPI's mpiexec, or srun",
    "MV2_COMM_WORLD_SIZE": "MVAPICH's mpirun",
    "JSM_NAMESPACE_SIZE": "jsrun",
    "PALS_SIZE": "PALS's mpiexec",
    "FLUX_JOB_SIZE": "flux run",
}
"""Variable that holds the number of ranks of the job -> the launcher that sets it."""
_LOCAL_SIZES: Final = {"MPI_LOCALNRANKS": "MPICH's or Intel MPI's mpiexec", "PALS_LOCAL_SIZE": "PALS's mpiexec"}
"""Variable that holds the number of ranks of this host -> the launcher that sets it."""
_OTHERS: Final = ("PMIX_RANK", "PMI_RANK", "PALS_RANKID", "FLUX_TASK_RANK")
"""Variables of launchers that declare no number of ranks."""
_STEP: Final = "SLURM_STEP_NUM_TASKS"
"""Number of tasks of this `srun`. `SLURM_NTASKS` describes the allocation, in which a process may be alone. Under
mpirun, Slurm's variables describe the daemons of mpirun."""
_TORCH: Final = ("WORLD_SIZE", "RANK")
_RANKS: Final = (
    "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MV2_COMM_WORLD_RANK", "PALS_RANKID", "FLUX_TASK_RANK",
    "SLURM_PROCID", "RANK",
)  # fmt: skip

_OF_MPI: Final = ("OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", *_OTHERS)
"""Variables that hold the rank, of launchers of MPI ranks."""


def launched_rank(environ: Mapping[str, str] = os.environ) -> int:
    """The rank of this process according to the launcher, known before MPI starts; 0 without a launcher."""
    ranks = [rank for name in _RANKS if (rank := _number(environ, name)) is not None]
    return ranks[0] if ranks else 0


def is_launched(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher of MPI ranks, or an srun of several tasks, started this process."""
    if any(name in environ for name in (*_SIZES, *_LOCAL_SIZES, *_OTHERS)):
        return True
    return (_number(environ, _STEP) or 1) > 1


def require_size(size: int, library: str, environ: Mapping[str, str] = os.environ) -> None:
    """Check that MPI has the number of ranks that the launcher started. Nested launchers declare several numbers."""
    declared = {name: count for name in _SIZES if (count := _number(environ, name)) is not None}
    if not declared and (tasks := _number(environ, _STEP)) is not None:
        declared[_STEP] = tasks
    local = {name: count for name in _LOCAL_SIZES if (count := _number(environ, name)) is not None}
    fits = size in declared.values() if size > 1 else all(count <= 1 for count in declared.values())
    if (not declared or fits) and all(count <= size for count in local.values()):
        _require_rank(size, library, environ)
        return
    name, count = max({**declared, **local}.items(), key=lambda item: item[1])
    launcher = {**_SIZES, **_LOCAL_SIZES, _STEP: "srun"}[name]
    raise ConfigError(
        f"the launcher declares {count} ranks ({name}={count}, which {launcher} sets), but MPI has {size}: mpi4py is "
        f"built with {library}, which this launcher doesn't start, so each process would be a separate run. "
        + _remedy(name, count, library)
    )


def _require_rank(size: int, library: str, environ: Mapping[str, str]) -> None:
    ranks = {name: rank for name in _OF_MPI if (rank := _number(environ, name)) is not None}
    if not ranks or min(ranks.values()) < size:  # with nested launchers, one of them counts
        return
    name, rank = max(ranks.items(), key=lambda item: item[1])
    raise ConfigError(
        f"the launcher started this process as rank {rank} ({name}={rank}), but MPI has {size}, expected at least "
        f"{rank + 1}: mpi4py is built with {library}, which this launcher doesn't start, so each process would be a "
        "separate run. " + _remedy(name, rank + 1, library)
    )


def refuse_other_launchers(environ: Mapping[str, str] = os.environ) -> None:
    """Check that no launcher without MPI, such as torchrun, started several processes."""
    size = _number(environ, _TORCH[0])
    if is_launched(environ) or size is None or size <= 1 or _number(environ, _TORCH[1]) is None:
        return
    torchrun = "TORCHELASTIC_RUN_ID" in environ
    launcher = "torchrun" if torchrun else "a launcher such as torchrun, accelerate or deepspeed"
    raise ConfigError(
        f"{launcher} started {size} processes (WORLD_SIZE={size}), each of which would start the same run: ranks of "
        f"es_llm are processes under MPI; start `mpirun -n {size} python ...` instead, or give each process `comm` "
        "single"
    )


def _remedy(name: str, count: int, library: str) -> str:
    own = f"`{'mpirun' if 'Open MPI' in library else 'mpiexec'} -n {count}`"
    build = "build mpi4py for the launcher's MPI (`pip install --no-binary mpi4py mpi4py` with its mpicc on the PATH)"
    single = "`comm` single makes each process a separate run"
    if name == _STEP:
        pmi = "`srun --mpi=pmix`" if "Open MPI" in library else "`srun --mpi=pmi2`"
        return f"Start the ranks by {pmi}, or by that MPI's own {own}, or {build}; {single}"
    return f"Start the ranks by that MPI's own {own}, or {build}; {single}"


def _number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None
