"""Which mailbox a process should use."""

from __future__ import annotations

import os

from es_llm.comm.mailbox import Mailbox
from es_llm.comm.mpi import MPIMailbox
from es_llm.comm.single import SingleMailbox

_LAUNCHER_VARIABLES = (
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "PMIX_RANK",
    "MPI_LOCALNRANKS",
    "MV2_COMM_WORLD_SIZE",
)
"""Set by mpirun (Open MPI, MPICH, Intel MPI, MVAPICH) and by srun with PMI or PMIx."""


_RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")


def launched_rank() -> int:
    """The rank that the launcher gave this process, known before MPI starts; 0 without a launcher."""
    ranks = [os.environ[name] for name in _RANK_VARIABLES if os.environ.get(name, "").isdigit()]
    return int(ranks[0]) if ranks else 0


def select_mailbox(kind: str = "auto") -> Mailbox:
    """The mailbox of this process: `single`, `mpi`, or `auto` (MPI when a launcher started the process).

    Raises:
        ConfigError: MPI is wanted and not there.
    """
    if kind == "mpi" or (kind == "auto" and any(name in os.environ for name in _LAUNCHER_VARIABLES)):
        return MPIMailbox()
    return SingleMailbox()
