"""The trainer's side of the reward server: starts it, sends batches, receives scores."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from concurrent.futures import Future
from multiprocessing.connection import Connection, Pipe
from typing import Any, Final

from es_llm.errors import ConfigError, RewardError
from es_llm.rewards.batch import DIED, Batch, Scores
from es_llm.rewards.loading import reference_of
from es_llm.rewards.requests import Request, Start
from es_llm.types import RewardFunction

_RESTARTS: Final = 3
_LAUNCHER: Final = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "MPI_LOCALNRANKS", "SLURM_")
"""Beginnings of the names of variables that make a process a rank; its rewards are none."""
_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class RewardPool:
    """Killable workers for some reward functions. Nothing is started before `open` or the first `submit`.

    Args:
        functions: name -> function.
        workers: processes that call them.
        limit_s: seconds that a completion may take; 0: any time.
        memory_mb: megabytes that a worker may need for itself; 0: no limit.

    Raises:
        ConfigError: a function can't travel to another process; names it.
    """

    def __init__(
        self, functions: Mapping[str, RewardFunction], *, workers: int, limit_s: float, memory_mb: int
    ) -> None:
        self._start = Start(
            functions={name: _travelling(name, function) for name, function in functions.items()},
            path=list(sys.path),
            workers=workers,
            limit_s=limit_s,
            memory_mb=memory_mb,
        )
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._open: dict[int, tuple[Request, Future[Scores]]] = {}
        self._connection: Connection | None = None
        self._restarts = 0
        self._finalizer: Any = None

    def open(self) -> None:
        """Start the server unless it runs.

        Raises:
            RewardError: a function can't be loaded there; names it.
        """
        with self._lock:
            if self._connection is None:
                self._connect()

    def submit(self, name: str, batch: Batch, *, together: bool = False) -> Future[Scores]:
        """Begin to score a batch; `together`: by one call that gives one float for all of it."""
        self.open()
        request = Request(next(self._numbers), name, batch, together)
        future: Future[Scores] = Future()
        with self._lock:
            self._open[request.number] = (request, future)
            self._send(request)
        return future

    def close(self) -> None:
        """End the server, and everything below it."""
        with self._lock:
            self._connection = None
            if self._finalizer is not None:
                self._finalizer()

    def _connect(self) -> None:
        ours, theirs = Pipe()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHER)}
        environment |= dict.fromkeys(_THREADS, "1")
        process = subprocess.Popen(
            [sys.executable, "-m", "es_llm.rewards.server", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        try:
            ours.send(self._start)
            told = ours.recv()
        except (EOFError, OSError) as error:
            process.wait()
            raise RewardError(f"the process for rewards ended with code {process.returncode} at its start") from error
        if told is not None:
            process.wait()
            name, why = told
            raise RewardError(f"reward function `{name}` can't be loaded in a process of its own: {why}; {_REMEDY}")
        self._connection = ours
        self._finalizer = weakref.finalize(self, _end, ours, process)
        threading.Thread(target=_listen, args=(weakref.ref(self), ours), daemon=True).start()

    def _send(self, request: Request) -> None:
        assert self._connection is not None
        with contextlib.suppress(OSError):  # the listener sees that it ended
            self._connection.send(request)

    def _heard(self, number: int, scores: Scores) -> None:
        with self._lock:
            known = self._open.pop(number, None)
        if known is not None:
            known[1].set_result(scores)

    def _lost(self, connection: Connection) -> None:
        """The server ended: start another one with the same work, or fail it."""
        with self._lock:
            if self._connection is not connection:
                return
            self._connection = None
            self._finalizer()
            self._restarts += 1
            waiting = list(self._open.values())
            try:
                if self._restarts > _RESTARTS:
                    raise RewardError("the process for rewards ended again and again")
                self._connect()
            except (RewardError, OSError) as error:
                self._open.clear()
                for request, future in waiting:
                    future.set_result(Scores.failed(len(request.batch), DIED, str(error)))
                return
            for request, _ in waiting:
                self._send(request)


_REMEDY: Final = "let it use only what can be pickled, or call it in the trainer's process with `reward_workers` 0"


def _travelling(name: str, function: RewardFunction) -> tuple[str, Any]:
    """A function as something that another process can load."""
    import cloudpickle

    reference = reference_of(function)
    if reference is not None:
        return "reference", reference
    try:
        return "pickle", cloudpickle.dumps(function)
    except Exception as error:
        raise ConfigError(
            f"reward function `{name}` can't be sent to a process of its own ({type(error).__name__}: {error}); "
            f"{_REMEDY}"
        ) from error


def _listen(owner: weakref.ref[RewardPool], connection: Connection) -> None:
    """In a thread: hand answers to the pool as long as there is one."""
    while True:
        try:
            number, scores = connection.recv()
        except (EOFError, OSError, TypeError):  # TypeError: closed while it was waited for
            break
        pool = owner()
        if pool is None:
            return
        pool._heard(number, scores)
        del pool
    pool = owner()
    if pool is not None:
        pool._lost(connection)


def _end(connection: Connection, process: subprocess.Popen[bytes]) -> None:
    """The server ends when it sees the end of its connection."""
    # A thread may be reading: shut the connection down first, so that it returns.
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
