"""The reward server: one process beside each rank, which keeps killable workers for its reward functions.

    python -m es_llm.rewards.workers.server FD

It holds neither a model nor MPI, so it forks its workers in milliseconds, with closures and imported modules included.
It receives requests and sends answers over the socket FD, and ends when that socket is closed. It cuts a batch into
parts for its workers. If a worker ends during a part, each completion of the part is tried again alone, so that only
the faulty ones fail. Processes that a worker starts are counted while it runs, and killed with it.
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
from collections.abc import Callable, Mapping
from typing import Final

from es_llm.rewards.batch import RAISED, Batch, RewardResult
from es_llm.rewards.call import is_async
from es_llm.rewards.workers import system
from es_llm.rewards.workers.channel import Channel, write_message
from es_llm.rewards.workers.handle import Part
from es_llm.rewards.workers.protocol import BatchRequest, Start, pack, unpack
from es_llm.rewards.workers.supervisor import Supervisor
from es_llm.rewards.workers.worker import receive_start
from es_llm.types import RewardFunction

PART_S: Final = 0.05
"""Seconds that a part of a batch should take."""
MAX_PART: Final = 64
"""Completions of a part."""


class Server:
    """Serves the trainer until it closes its socket. Never waits for one process alone."""

    def __init__(self, trainer: socket.socket, start: Start, functions: Mapping[str, RewardFunction]) -> None:
        self._trainer, self._workers = Channel(trainer), start.limits.workers
        self._functions = functions
        self._completion_s: dict[str, float] = {}
        self._supervisor = Supervisor(start, functions, foreign=[trainer], done=self._done)

    def run(self) -> None:
        """Serve, then end this process and all below it. After an error here the trainer starts another server."""
        try:
            while True:
                self._supervisor.step()
                self._trainer.flush()
                self._wait(self._supervisor.interval_s)
                for message in self._trainer.receive():
                    self._accept(unpack(message))
        except EOFError:
            code = 0
        except BaseException:
            traceback.print_exc()
            code = 1
        self._supervisor.end()
        os._exit(code)

    def _wait(self, seconds: float) -> None:
        """Wait until a socket can be read, or written if bytes wait for it, or a worker ends."""
        with selectors.DefaultSelector() as selector:
            for channel, sentinel in [(self._trainer, None), *self._supervisor.channels()]:
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.unsent else 0)
                selector.register(channel, events)
                if sentinel is not None:
                    selector.register(sentinel, selectors.EVENT_READ)
            selector.select(seconds)

    def _accept(self, request: BatchRequest) -> None:
        size = request.size
        try:
            batch: Batch = unpack(request.batch)
        except Exception as error:
            reason = f"the reward server can't read the batch: {type(error).__name__}: {error}"
            self._answer(request.number, RewardResult.failed(size, RAISED, reason))
            return
        job, parts, start = Job(request.number, size, self._answer), self._parts(request), 0
        for n in range(parts):  # the larger ones first, so that all workers get about the same number of completions
            stop = start + size // parts + (n < size % parts)
            indices, part = range(start, stop), batch.part(slice(start, stop))
            self._supervisor.add(Part(job, indices, request.name, part, request.together))
            start = stop

    def _parts(self, request: BatchRequest) -> int:
        """Number of parts: equally many per worker, of about `PART_S` each."""
        size = request.size
        if request.together or is_async(self._functions[request.name]):
            return min(1, size)
        fitting = PART_S / self._completion_s.get(request.name, PART_S)
        per_worker = max(2, math.ceil(size / self._workers / min(MAX_PART, max(1.0, fitting))))
        return min(size, per_worker * self._workers)

    def _done(self, part: Part, result: RewardResult, seconds: float) -> None:
        if seconds:
            known, own = self._completion_s.get(part.name, 0.0), seconds / len(part.indices)
            self._completion_s[part.name] = max(1e-5, 0.7 * known + 0.3 * own if known else own)
        part.owner.add(part.indices, result)

    def _answer(self, number: int, result: RewardResult) -> None:
        self._trainer.send(pack((number, result)))


class Job:
    """A request whose parts are done in any order. A request without completions is answered at once."""

    def __init__(self, number: int, size: int, answer: Callable[[int, RewardResult], None]) -> None:
        self._number, self._open, self._answer = number, size, answer
        self._parts: dict[int, RewardResult] = {}
        if size == 0:
            answer(number, RewardResult([]))

    def add(self, indices: range, result: RewardResult) -> None:
        """Add the result of a part. The last one sends the answer."""
        self._parts[indices.start] = result
        self._open -= len(indices)
        if self._open == 0:
            self._answer(self._number, RewardResult.joined([self._parts[start] for start in sorted(self._parts)]))


def main(descriptor: int) -> None:
    """Load the functions, report success or the failure, and serve.

    During the loading this process ends with its parent, whatever the functions' imports do. Later it ends when the
    socket is closed.
    """
    system.end_with_parent(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):  # the trainer has ended
        trainer = socket.socket(fileno=descriptor)
        start, functions = receive_start(trainer)
        system.outlive_parent()
        system.adopt_orphans()
        write_message(trainer, pack(None))
        Server(trainer, start, functions).run()


if __name__ == "__main__":
    # Not `__main__`'s own copy: pickles name classes by this module's own name.
    from es_llm.rewards.workers.server import main as serve

    serve(int(sys.argv[1]))
