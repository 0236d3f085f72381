"""`python -m es_llm.rewards.workers.server FD`: one process beside each rank that keeps killable workers for rewards.

It holds neither a model nor MPI, so its workers are forked from it in milliseconds, closures and imported modules
included. Requests come, and answers go, over the socket FD; its end is the server's end. A batch is cut into parts for
workers; a part that ended its worker is tried again completion by completion, so that each one fails by itself. What
workers start belongs to them: it is counted while they run, and ended with them.
"""

from __future__ import annotations

import contextlib
import math
import os
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Final

from es_llm.rewards.batch import RAISED, Batch, Scores
from es_llm.rewards.call import is_async
from es_llm.rewards.workers import system, worker
from es_llm.rewards.workers.channel import Channel, read_message, write_message
from es_llm.rewards.workers.protocol import Request, Start, packed, unpacked
from es_llm.rewards.workers.supervisor import Crew, Part

CHUNK_S: Final = 0.05
"""A worker gets completions for about so long at once."""
LARGEST_CHUNK: Final = 64


class Server:
    """Takes requests from the trainer until it ends, and never waits for one process alone."""

    def __init__(self, trainer: socket.socket, start: Start) -> None:
        self._trainer, self._workers = Channel(trainer), start.workers
        self._item_s: dict[str, float] = {}
        self._crew = Crew(start, foreign=[trainer], done=self._done)

    def run(self) -> None:
        """Serve, then leave nobody behind; after an error of the server's own the trainer starts another one."""
        try:
            while True:
                self._crew.step()
                self._trainer.flush()
                self._wait(self._crew.look_s)
                for message in self._trainer.receive():
                    self._take(unpacked(message))
        except EOFError:
            code = 0
        except BaseException:
            traceback.print_exc()
            code = 1
        self._crew.end()
        os._exit(code)

    def _wait(self, seconds: float) -> None:
        """Until anybody says something, can be told something, or ends."""
        with selectors.DefaultSelector() as selector:
            for channel, sentinel in [(self._trainer, None), *self._crew.channels()]:
                both = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.unsent else 0)
                selector.register(channel, both)
                if sentinel is not None:
                    selector.register(sentinel, selectors.EVENT_READ)
            selector.select(seconds)

    def _take(self, request: Request) -> None:
        size = request.size
        try:
            batch: Batch = unpacked(request.batch)
        except Exception as error:
            why = f"the batch can't be read in the process for rewards: {type(error).__name__}: {error}"
            self._answer(request.number, Scores.failed(size, RAISED, why))
            return
        job, parts, start = Job(request.number, size, self._answer), self._parts(request), 0
        for n in range(parts):  # the longer ones first, so that each worker gets as many completions
            stop = start + size // parts + (n < size % parts)
            self._crew.add(Part(job, range(start, stop), request.name, batch.part(start, stop), request.together))
            start = stop

    def _parts(self, request: Request) -> int:
        """Into how many parts: as many for each worker, each of about `CHUNK_S`."""
        size = request.size
        if request.together or is_async(worker.FUNCTIONS[request.name]):
            return min(1, size)
        fitting = CHUNK_S / self._item_s.get(request.name, CHUNK_S)
        rounds = max(2, math.ceil(size / self._workers / min(LARGEST_CHUNK, max(1.0, fitting))))
        return min(size, rounds * self._workers)

    def _done(self, part: Part, scores: Scores, seconds: float) -> None:
        if seconds:
            known, mine = self._item_s.get(part.name, 0.0), seconds / len(part.places)
            self._item_s[part.name] = max(1e-5, 0.7 * known + 0.3 * mine if known else mine)
        part.owner.add(part.places, scores)

    def _answer(self, number: int, scores: Scores) -> None:
        self._trainer.send(packed((number, scores)))


class Job:
    """A request whose parts come back in any order; one of no completions is answered at once."""

    def __init__(self, number: int, size: int, answer: Callable[[int, Scores], None]) -> None:
        self._number, self._open, self._answer = number, size, answer
        self._parts: dict[int, Scores] = {}
        if size == 0:
            answer(number, Scores([]))

    def add(self, places: range, scores: Scores) -> None:
        """A part came; after the last one the answer goes out."""
        self._parts[places.start] = scores
        self._open -= len(places)
        if self._open == 0:
            self._answer(self._number, Scores.joined([self._parts[place] for place in sorted(self._parts)]))


def main(descriptor: int) -> None:
    """Load the functions, say how that went, serve.

    While they load, this process ends with its parent, whatever they are at; later the end of the socket is its end.
    """
    system.end_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):  # who asked has ended
        _serve(socket.socket(fileno=descriptor))


def _serve(trainer: socket.socket) -> None:
    start: Start = unpacked(read_message(trainer))
    sys.path[:] = start.path
    failed = worker.load(start.functions)
    if failed is not None:
        write_message(trainer, packed(failed))
        return
    system.outlive_parent()
    system.adopt_orphans()
    write_message(trainer, packed(None))
    Server(trainer, start).run()


if __name__ == "__main__":
    # Not `__main__`'s own copy: what is pickled must be found under the module's name.
    from es_llm.rewards.workers.server import main as serve

    serve(int(sys.argv[1]))
