"""The trainer's side of the reward server: starts it, sends batches, receives results."""

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
from es_llm.plugins import file_module_of, reference_of
from es_llm.rewards.batch import DIED, Batch, RewardResult
from es_llm.rewards.workers.channel import read_message, shut, write_message
from es_llm.rewards.workers.protocol import BatchRequest, Start, WorkerLimits, pack, pack_batch, unpack
from es_llm.rewards.workers.system import has_standard_error, is_stopped, kill_tree, open_standard_descriptors
from es_llm.types import RewardFunction

_MAX_RESTARTS: Final = 3
_START_S: Final = 180.0
"""Seconds that a server may take to load its functions and their imports."""
_CHECK_S: Final = 2.0
"""Seconds between checks of a silent server. If a function has stopped it by a signal, it is killed and replaced."""
_LAUNCHER: Final = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "MPI_LOCALNRANKS", "SLURM_")
"""Beginnings of the names of environment variables that make a process a rank. The server must not be one."""
_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class RewardPool:
    """Killable workers for some reward functions. The first `open` or `submit` starts them."""

    def __init__(self, functions: Mapping[str, RewardFunction], limits: WorkerLimits) -> None:
        self._start = Start(
            functions={name: _sendable(name, function) for name, function in functions.items()},
            path=[os.path.abspath(entry) for entry in sys.path],  # a function may leave this directory
            limits=limits,
        )
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._open: dict[int, tuple[BatchRequest, Future[RewardResult]]] = {}
        self._socket: socket.socket | None = None
        self._restarts = 0
        self._finalizer: Any = None

    def open(self) -> None:
        """Start the server unless it runs."""
        with self._lock:
            if self._socket is None:
                self._connect()

    def submit(self, name: str, batch: Batch, *, together: bool = False) -> Future[RewardResult]:
        """Send a batch to a function. `together`: one call returns one float for all completions."""
        self.open()
        request = BatchRequest(next(self._numbers), name, len(batch), together, pack_batch(batch))
        future: Future[RewardResult] = Future()
        with self._lock:
            self._open[request.number] = (request, future)
            server = self._socket
        self._send(server, request)
        return future

    def close(self) -> None:
        """End the server and all processes below it. Open requests fail."""
        with self._lock:
            self._socket = None
            waiting = self._take_open()
            if self._finalizer is not None:
                self._finalizer()
        _fail(waiting, "the workers were ended")

    def _connect(self) -> None:
        open_standard_descriptors()  # else the server's descriptors 0 to 2 would be the ends of its socket
        output = 2 if has_standard_error() else subprocess.DEVNULL  # else 2 may be any other library's socket
        ours, theirs = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHER)}
        environment |= dict.fromkeys(_THREADS, "1")
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "es_llm.rewards.workers.server", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,  # text that functions print isn't this program's output
                stderr=output,
                start_new_session=True,
            )
        try:
            self._handshake(ours, process)
        except BaseException:  # also an interrupt while the import of a function's file hangs
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

    def _handshake(self, server: socket.socket, process: subprocess.Popen[bytes]) -> None:
        server.settimeout(_START_S)
        try:
            write_message(server, pack(self._start))
            failed = unpack(read_message(server))
        except TimeoutError as error:
            names = ", ".join(f"`{name}`" for name in self._start.functions)
            raise RewardError(f"the reward server didn't load {names} within {_START_S:g} s") from error
        except (EOFError, OSError) as error:
            code = process.wait()
            raise RewardError(f"the reward server ended with code {code} at its start") from error
        if failed is not None:
            name, reason = failed
            raise RewardError(f"reward function `{name}` can't be loaded in the reward server: {reason}; {_REMEDY}")
        server.settimeout(None)

    def _send(self, server: socket.socket | None, request: BatchRequest) -> None:
        """Send a request. If the server is gone, `_lost` sends all open requests to the next one."""
        if server is not None:
            with self._sending, contextlib.suppress(OSError):
                write_message(server, pack(request))

    def _receive(self, number: int, result: RewardResult) -> None:
        with self._lock:
            known = self._open.pop(number, None)
        if known is not None:
            known[1].set_result(result)

    def _lost(self, server: socket.socket) -> None:
        """The server ended: start another one with the same requests. If that can't be done, the requests fail."""
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
                if self._restarts > _MAX_RESTARTS:
                    raise RewardError(f"the reward server ended {self._restarts} times")
                self._connect()
            except (RewardError, OSError, RuntimeError) as error:  # RuntimeError: an exiting program starts no thread
                waiting, reason = self._take_open(), str(error)
            else:
                waiting, reason = [], ""
            again, server_now = [request for request, _ in self._open.values()], self._socket
        _fail(waiting, reason)
        for request in again:
            self._send(server_now, request)

    def _take_open(self) -> list[tuple[BatchRequest, Future[RewardResult]]]:
        waiting = list(self._open.values())
        self._open.clear()
        return waiting


_REMEDY: Final = "let it use only what can be pickled, or call it in the trainer's process with `reward_workers` 0"


def _sendable(name: str, function: RewardFunction) -> tuple[str, Any]:
    import cloudpickle

    reference = reference_of(function)
    if reference is not None:
        return "reference", reference
    module = file_module_of(function)
    if module is not None:  # the server can't import it: also send the globals that the function uses
        cloudpickle.register_pickle_by_value(module)
    try:
        return "pickle", cloudpickle.dumps(function)
    except Exception as error:
        raise ConfigError(
            f"reward function `{name}` can't be sent to the reward server ({type(error).__name__}: {error}); {_REMEDY}"
        ) from error


def _fail(waiting: list[tuple[BatchRequest, Future[RewardResult]]], reason: str) -> None:
    for request, future in waiting:
        future.set_result(RewardResult.failed(request.size, DIED, reason))


def _listen(owner: weakref.ref[RewardPool], server: socket.socket, process: int) -> None:
    """In a thread: pass results to the pool, as long as the pool exists."""
    stopped = 0
    while True:
        try:
            while not select.select([server], [], [], _CHECK_S)[0]:
                stopped = stopped + 1 if is_stopped(process) else 0
                if stopped > 1:  # one check isn't enough: a whole job that was stopped may be just continuing
                    kill_tree(process)
            number, result = unpack(read_message(server))
        except (EOFError, OSError, ValueError):  # ValueError: the socket was closed during the wait
            break
        pool = owner()
        if pool is None:
            return
        pool._receive(number, result)
        del pool
    pool = owner()
    if pool is not None:
        pool._lost(server)


def _end(server: socket.socket, process: subprocess.Popen[bytes]) -> None:
    """End the server, and the thread that reads from it: both end when the socket is shut down."""
    shut(server)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    server.close()
