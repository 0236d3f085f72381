"""`python -m es_llm.rewards.server FD`: one process beside each rank that keeps killable workers for its rewards.

It holds neither a model nor MPI, so its workers are forked from it in milliseconds, closures and imported modules
included. Requests and answers are pickles over the connection FD; its end is the server's end. A batch is cut into
parts for workers; a part that ended its worker is tried again completion by completion, so that each one fails by
itself. What workers start belongs to them: it is counted while they run, and ended with them.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Final

from es_llm.rewards import processes, worker
from es_llm.rewards.batch import Scores
from es_llm.rewards.call import is_async
from es_llm.rewards.crew import Crew, Part
from es_llm.rewards.loading import load_reward
from es_llm.rewards.requests import Request, Start

CHUNK_S: Final = 0.05
"""A worker gets completions for about so long at once."""
LARGEST_CHUNK: Final = 64


class Server:
    """Takes requests from `connection` until it ends."""

    def __init__(self, connection: Connection, start: Start) -> None:
        self._connection, self._workers = connection, start.workers
        self._item_s: dict[str, float] = {}
        self._crew = Crew(start.workers, limit_s=start.limit_s, memory_mb=start.memory_mb, done=self._done)

    def run(self) -> None:
        """Serve, then leave nobody behind."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._crew.step()
                if self._crew.wait(self._connection):
                    self._take(self._connection.recv())
        self._crew.end()
        os._exit(0)

    def _take(self, request: Request) -> None:
        size = len(request.batch)
        if request.together or is_async(worker.FUNCTIONS[request.name]):
            chunk = size
        else:
            chunk = max(1, min(LARGEST_CHUNK, int(CHUNK_S / self._item_s.get(request.name, CHUNK_S))))
            chunk = min(chunk, max(1, size // (2 * self._workers)))
        job = Job(request, self._answer)
        if size == 0:
            self._answer(request.number, Scores([]))
        for start in range(0, size, chunk):
            places = range(start, min(start + chunk, size))
            batch = request.batch.part(places.start, places.stop)
            self._crew.add(Part(job, places, request.name, batch, request.together))

    def _done(self, part: Part, scores: Scores, seconds: float) -> None:
        if seconds:
            known, mine = self._item_s.get(part.name, 0.0), seconds / len(part.places)
            self._item_s[part.name] = max(1e-5, 0.7 * known + 0.3 * mine if known else mine)
        part.owner.add(part.places, scores)

    def _answer(self, number: int, scores: Scores) -> None:
        with contextlib.suppress(OSError):  # that nobody listens shows where requests are read
            self._connection.send((number, scores))


class Job:
    """A request whose parts come back in any order."""

    def __init__(self, request: Request, answer: Callable[[int, Scores], None]) -> None:
        self._number, self._open, self._answer = request.number, len(request.batch), answer
        self._parts: dict[int, Scores] = {}

    def add(self, places: range, scores: Scores) -> None:
        """A part came; after the last one the answer goes out."""
        self._parts[places.start] = scores
        self._open -= len(places)
        if self._open == 0:
            self._answer(self._number, Scores.joined([self._parts[place] for place in sorted(self._parts)]))


def main(descriptor: int) -> None:
    """Load the functions, say how that went, serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = Connection(descriptor)
    with contextlib.suppress(EOFError, OSError):  # who asked has ended
        _serve(connection)


def _serve(connection: Connection) -> None:
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
