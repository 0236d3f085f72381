"""The trainer's side of the reward server: starts it, sends batches, receives scores."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Final

from es_llm.errors import ConfigError, RewardError
from es_llm.rewards.batch import DIED, Batch, Scores
from es_llm.rewards.loading import reference_of
from es_llm.rewards.workers.channel import read_message, shut, write_message
from es_llm.rewards.workers.protocol import Request, Start, packed, packed_batch, unpacked
from es_llm.rewards.workers.system import has_standard_error, is_stopped, kill_tree, open_standard_descriptors
from es_llm.types import RewardFunction

_RESTARTS: Final = 3
_START_S: Final = 180.0
"""So long may a server take to load its functions and what they import."""
_LOOK_S: Final = 2.0
"""A server that says nothing is looked at so often: one that a function has stopped is ended and replaced."""
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
            path=[os.path.abspath(place) for place in sys.path],  # a function may leave this directory
            workers=workers,
            limit_s=limit_s,
            memory_mb=memory_mb,
        )
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._open: dict[int, tuple[Request, Future[Scores]]] = {}
        self._socket: socket.socket | None = None
        self._restarts = 0
        self._finalizer: Any = None

    def open(self) -> None:
        """Start the server unless it runs.

        Raises:
            RewardError: a function can't be loaded there, or its process ends or hangs at its start; names it.
        """
        with self._lock:
            if self._socket is None:
                self._connect()

    def submit(self, name: str, batch: Batch, *, together: bool = False) -> Future[Scores]:
        """Begin to score a batch; `together`: by one call that gives one float for all of it.

        Raises:
            ConfigError: a column of the data can't travel to another process; names it.
            RewardError: see `open`.
        """
        self.open()
        request = Request(next(self._numbers), name, len(batch), together, packed_batch(batch))
        future: Future[Scores] = Future()
        with self._lock:
            self._open[request.number] = (request, future)
            server = self._socket
        self._send(server, request)
        return future

    def close(self) -> None:
        """End the server, and everything below it. What is open fails."""
        with self._lock:
            self._socket = None
            waiting = self._taken_back()
            if self._finalizer is not None:
                self._finalizer()
        _fail(waiting, "the workers were ended")

    def _connect(self) -> None:
        open_standard_descriptors()  # the server's own are the ends of its socket else
        output = 2 if has_standard_error() else subprocess.DEVNULL  # 2 may be anybody's socket
        ours, theirs = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHER)}
        environment |= dict.fromkeys(_THREADS, "1")
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "es_llm.rewards.workers.server", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,  # what functions print isn't this program's output
                stderr=output,
                start_new_session=True,
            )
        try:
            self._introduce(ours, process)
        except BaseException:  # also an interrupt while a function's file hangs in its import
            ours.close()
            kill_tree(process.pid)
            process.wait()
            raise
        self._socket = ours
        self._finalizer = weakref.finalize(self, _end, ours, process)
        try:
            threading.Thread(target=_listen, args=(weakref.ref(self), ours, process.pid), daemon=True).start()
        except RuntimeError:  # the program is exiting
            self._socket = None
            self._finalizer()
            raise

    def _introduce(self, server: socket.socket, process: subprocess.Popen[bytes]) -> None:
        """Tell the server what it needs, and hear that it has loaded its functions."""
        server.settimeout(_START_S)
        try:
            write_message(server, packed(self._start))
            told = unpacked(read_message(server))
        except TimeoutError as error:
            names = ", ".join(f"`{name}`" for name in self._start.functions)
            raise RewardError(f"the process for rewards didn't load {names} within {_START_S:g} s") from error
        except (EOFError, OSError) as error:
            code = process.wait()
            raise RewardError(f"the process for rewards ended with code {code} at its start") from error
        if told is not None:
            name, why = told
            raise RewardError(f"reward function `{name}` can't be loaded in a process of its own: {why}; {_REMEDY}")
        server.settimeout(None)

    def _send(self, server: socket.socket | None, request: Request) -> None:
        """The server reads whatever it is at; while it is away, `_lost` sends what is open to the next one."""
        if server is not None:
            with self._sending, contextlib.suppress(OSError):
                write_message(server, packed(request))

    def _heard(self, number: int, scores: Scores) -> None:
        with self._lock:
            known = self._open.pop(number, None)
        if known is not None:
            known[1].set_result(scores)

    def _lost(self, server: socket.socket) -> None:
        """The server ended: start another one with the same work, or fail it, as at the end of the program."""
        with self._lock:
            if self._socket is not server:
                return
            self._socket = None
            exiting = not self._finalizer.alive
            self._finalizer()
            self._restarts += 1
            try:
                if exiting:
                    raise RewardError("the workers were ended")
                if self._restarts > _RESTARTS:
                    raise RewardError("the process for rewards ended again and again")
                self._connect()
            except (RewardError, OSError, RuntimeError) as error:  # RuntimeError: a program that exits starts nothing
                waiting, why = self._taken_back(), str(error)
            else:
                waiting, why = [], ""
            again, server_now = [request for request, _ in self._open.values()], self._socket
        _fail(waiting, why)
        for request in again:
            self._send(server_now, request)

    def _taken_back(self) -> list[tuple[Request, Future[Scores]]]:
        waiting = list(self._open.values())
        self._open.clear()
        return waiting


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


def _fail(waiting: list[tuple[Request, Future[Scores]]], why: str) -> None:
    for request, future in waiting:
        future.set_result(Scores.failed(request.size, DIED, why))


def _listen(owner: weakref.ref[RewardPool], server: socket.socket, process: int) -> None:
    """In a thread: hand answers to the pool as long as there is one."""
    stopped = 0
    while True:
        try:
            while not select.select([server], [], [], _LOOK_S)[0]:
                stopped = stopped + 1 if is_stopped(process) else 0
                if stopped > 1:  # not just at the moment at which a whole job that was stopped goes on
                    kill_tree(process)
            number, scores = unpacked(read_message(server))
        except (EOFError, OSError, ValueError):  # ValueError: closed while it was waited for
            break
        pool = owner()
        if pool is None:
            return
        pool._heard(number, scores)
        del pool
    pool = owner()
    if pool is not None:
        pool._lost(server)


def _end(server: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """The server ends when it sees the end of its socket; so does the thread that reads from it."""
    shut(server)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    server.close()
