"""`python -m es_llm.rewards.server FD`: one process beside each rank that keeps killable workers for its rewards.

It holds neither a model nor MPI, so its workers are forked from it in milliseconds, closures and imported modules
included. Requests and answers are pickles over the connection FD; its end is the server's end. Pebble's pool gives
work to workers and finds out when one is gone; a batch that ended its worker is tried again completion by completion,
so that each one fails by itself. What workers start belongs to them: it is counted while they run, and ended with them.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Final

from pebble import ProcessExpired, ProcessPool

from es_llm.rewards import processes, worker
from es_llm.rewards.batch import DIED, TIMEOUT, Batch, Scores
from es_llm.rewards.call import is_async
from es_llm.rewards.loading import load_reward
from es_llm.rewards.requests import Request, Start

CHUNK_S: Final = 0.05
"""A worker gets completions for about so long at once."""
LARGEST_CHUNK: Final = 64
MOST_PROCESSES: Final = 64
"""A worker that starts more processes than that is killed with all of them."""
LOOK_S: Final = 0.02
_TRIES: Final = 3
"""So often a completion is tried whose worker died of something that nobody can pin on it."""


class Server:
    """Takes requests from `connection` until it ends."""

    def __init__(self, connection: Connection, start: Start) -> None:
        self._connection, self._start = connection, start
        self._sending = threading.Lock()
        self._changing = threading.Lock()
        self._crowds: dict[int, int] = {}
        self._item_s: dict[str, float] = {}
        self._over = threading.Event()
        self._pool = self._new_pool()

    def run(self) -> None:
        """Serve, then leave nobody behind."""
        census = threading.Thread(target=self._census, daemon=True)
        census.start()
        try:
            while True:
                self._take(self._connection.recv())
        except (EOFError, OSError):
            pass
        self._over.set()
        census.join()
        self._end()

    def _take(self, request: Request) -> None:
        job = Job(request, self._answer)
        size = len(request.batch)
        if request.together or is_async(worker.FUNCTIONS[request.name]):
            chunk = size
        else:
            chunk = max(1, min(LARGEST_CHUNK, int(CHUNK_S / self._item_s.get(request.name, CHUNK_S))))
            chunk = min(chunk, max(1, size // (2 * self._start.workers)))
        starts = range(0, size, chunk)
        job.open = len(starts)
        for start in starts:
            self._schedule(job, start, min(start + chunk, size), 1)

    def _schedule(self, job: Job, start: int, stop: int, attempt: int) -> None:
        request, limit_s = job.request, self._start.limit_s
        words = (request.name, request.batch.part(start, stop), limit_s, request.together)
        # The worker's own watchdog is exact; Pebble's limit is for one that can't even run that.
        backstop = 2 * limit_s * (stop - start) + 10 if limit_s else None
        began = time.monotonic()
        with self._changing:
            pool = self._pool
            try:
                future = pool.schedule(timed, args=words, timeout=backstop)
            except RuntimeError:  # the pool broke
                threading.Thread(target=_discard, args=(pool,), daemon=True).start()
                pool = self._pool = self._new_pool()
                future = pool.schedule(timed, args=words, timeout=backstop)
        future.add_done_callback(partial(self._done, job, start, stop, attempt, began))

    def _done(self, job: Job, start: int, stop: int, attempt: int, began: float, future: Any) -> None:
        try:
            scores, seconds = future.result()
        except (ProcessExpired, TimeoutError, CancelledError, RuntimeError) as error:
            self._failed(job, start, stop, attempt, error)
            return
        except BaseException as error:
            job.add(start, Scores.failed(stop - start, DIED, f"no answer came from its worker: {error!r}"))
            return
        known = self._item_s.get(job.request.name, 0.0)
        mine = seconds / (stop - start)
        self._item_s[job.request.name] = max(1e-5, 0.7 * known + 0.3 * mine if known else mine)
        job.add(start, scores)

    def _failed(self, job: Job, start: int, stop: int, attempt: int, error: BaseException) -> None:
        """A worker ended while it had these completions."""
        if self._over.is_set():
            return
        together = job.request.together
        if stop - start > 1 and not together:
            job.more(stop - start - 1)
            for place in range(start, stop):
                self._schedule(job, place, place + 1, 1)
            return
        kind, why = self._reason(error)
        if kind == DIED and not isinstance(error, ProcessExpired) and attempt < _TRIES:
            self._schedule(job, start, stop, attempt + 1)
            return
        job.add(start, Scores.failed(stop - start, kind, why))

    def _reason(self, error: BaseException) -> tuple[str, str]:
        limit = f"took longer than {self._start.limit_s:g} s"
        if isinstance(error, TimeoutError):
            return TIMEOUT, limit
        if not isinstance(error, ProcessExpired):
            return DIED, f"no worker could be had: {error!r}"
        if error.exitcode == worker.OVERTIME:
            return TIMEOUT, limit
        crowd = self._crowds.pop(error.pid or 0, 0)
        if crowd:
            return DIED, f"started {crowd} processes or more (limit {MOST_PROCESSES})"
        if error.exitcode is not None and error.exitcode < 0:
            return DIED, f"its worker was killed by signal {-error.exitcode} (memory?)"
        return DIED, f"its worker ended with exit code {error.exitcode}"

    def _answer(self, number: int, scores: Scores) -> None:
        with self._sending, contextlib.suppress(OSError):
            self._connection.send((number, scores))

    def _new_pool(self) -> ProcessPool:
        return ProcessPool(
            max_workers=self._start.workers,
            initializer=worker.start,
            initargs=(os.getpid(), self._start.memory_mb),
            context=multiprocessing.get_context("fork"),
        )

    def _census(self) -> None:
        """Count what workers start, and end what they leave behind."""
        if not processes.LINUX:
            return
        strange: set[int] = set()
        while not self._over.wait(LOOK_S):
            workers = {process.pid for process in multiprocessing.active_children()}
            seen = set(processes.children(os.getpid())) - workers
            for orphan in seen & strange:  # seen twice: no worker that is just being forked
                processes.kill_tree(orphan)
                processes.bury(orphan)
            strange = seen
            for pid in workers:
                if pid is not None and processes.children(pid):
                    crowd = sum(1 for _ in processes.descendants(pid))
                    if crowd > MOST_PROCESSES:
                        self._crowds[pid] = crowd
                        processes.kill_tree(pid)

    def _end(self) -> None:
        """Kill everything below this process, until there is nothing."""
        end = time.monotonic() + 5
        while time.monotonic() < end:
            below = processes.children(os.getpid())
            for child in below or [process.pid for process in multiprocessing.active_children() if process.pid]:
                processes.kill_tree(child)
                processes.bury(child)
            if not below:
                break
            time.sleep(0.005)
        os._exit(0)  # not through Pebble's own end, which waits for workers one by one


class Job:
    """A request whose parts come back in any order."""

    def __init__(self, request: Request, answer: Callable[[int, Scores], None]) -> None:
        self.request, self._answer = request, answer
        self._parts: dict[int, Scores] = {}
        self._lock = threading.Lock()
        self.open = 0

    def more(self, count: int) -> None:
        """So many more parts are to come."""
        with self._lock:
            self.open += count

    def add(self, start: int, scores: Scores) -> None:
        """A part came; after the last one the answer goes out."""
        with self._lock:
            self._parts[start] = scores
            self.open -= 1
            if self.open:
                return
        self._answer(self.request.number, Scores.joined([self._parts[place] for place in sorted(self._parts)]))


def _discard(pool: ProcessPool) -> None:
    """End the workers of a pool that broke."""
    with contextlib.suppress(Exception):
        pool.stop()
        pool.join()


def timed(name: str, batch: Batch, limit_s: float, together: bool) -> tuple[Scores, float]:
    """In a worker: scores, and the seconds that they took."""
    began = time.perf_counter()
    scores = worker.score(name, batch, limit_s, together)
    return scores, time.perf_counter() - began


def main(descriptor: int) -> None:
    """Load the functions, say how that went, serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = Connection(descriptor)
    start: Start = connection.recv()
    sys.path[:] = start.path
    for name, (kind, given) in start.functions.items():
        try:
            function = load_reward(given) if kind == "reference" else pickle.loads(given)
        except BaseException as error:
            connection.send((name, f"{type(error).__name__}: {error}"))
            return
        worker.FUNCTIONS[name] = function
    processes.adopt_orphans()
    connection.send(None)
    Server(connection, start).run()


if __name__ == "__main__":
    # Not `__main__`'s own copy: what is pickled must be found under the module's name.
    from es_llm.rewards.server import main as serve

    serve(int(sys.argv[1]))
