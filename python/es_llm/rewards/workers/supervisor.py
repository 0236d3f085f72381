"""Keeps workers running that may die at any moment, and gives them parts of batches.

One thread owns all of this, and never waits for one worker alone. A worker shares only the few bytes of its deadline
with this process. Since this process checks the deadline, the limit holds for workers that are in C code with Python's
lock, or that are stopped. Knows nothing about requests.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from es_llm.rewards.batch import DIED, RewardResult
from es_llm.rewards.workers import spawn, system
from es_llm.rewards.workers.channel import Channel, ChannelError
from es_llm.rewards.workers.handle import Part, Verdict, WorkerProcess
from es_llm.rewards.workers.protocol import Start, unpack
from es_llm.types import RewardFunction

MAX_PROCESSES: Final = 64
"""A worker that has more processes below it is killed with all of them."""
CHECK_S: Final = 0.02
"""Seconds between checks of deadlines and of the workers' processes while there is work."""
IDLE_S: Final = 0.25
"""Seconds between checks while there is none."""
_STOPPED_S: Final = 1.0
"""A longer time between checks means that this process and its workers were stopped: it counts for no deadline."""
_MAX_ATTEMPTS: Final = 5
"""How often a part is given to a worker that ends before it begins."""
_NO_WORKER_S: Final = 30.0
"""If the system can't start a process for this time, and no worker is left, waiting parts fail."""
_MAX_LOADS: Final = 3
"""Number of workers in a row that may fail to load the functions before waiting parts fail."""


class Supervisor:
    """The workers, and the parts that wait for one."""

    def __init__(
        self,
        start: Start,
        functions: Mapping[str, RewardFunction],
        *,
        foreign: Sequence[socket.socket],
        done: Callable[[Part, RewardResult, float], None],
    ) -> None:
        self._start, self._functions, self._done = start, functions, done
        self._foreign = foreign
        self._workers: list[WorkerProcess] = []
        self._queue: deque[Part] = deque()
        self._lacking_since: float | None = None
        self._checked = 0.0
        self._failed_loads = 0
        self._forks = True

    def add(self, part: Part) -> None:
        """Add a part, which waits for a worker."""
        self._queue.append(part)

    @property
    def interval_s(self) -> float:
        """Seconds until the next `step` at the latest."""
        return CHECK_S if self._queue or any(each.part is not None for each in self._workers) else IDLE_S

    def channels(self) -> Iterator[tuple[Channel, int]]:
        """The channel of each worker, and its sentinel, which becomes readable when the worker ends."""
        for each in self._workers:
            yield each.channel, each.process.sentinel

    def step(self) -> None:
        """Receive answers, handle workers that ended, check deadlines and processes, start workers, give out parts."""
        for each in list(self._workers):
            each.channel.flush()
            self._receive(each)
            if each.ended:
                self._remove(each)
        now = time.monotonic()
        if now - self._checked >= CHECK_S:
            self._check(now)
        self._spawn(now)
        for each in self._workers:
            if each.is_free and self._queue:
                each.give(self._queue.popleft())

    def end(self) -> None:
        """Kill all processes below this one, until none is left."""
        for each in self._workers:
            system.kill_tree(each.pid)
        end = time.monotonic() + 5
        while (below := system.children(os.getpid())) and time.monotonic() < end:
            for child in below:
                system.kill_tree(child)
                system.reap(child)
            time.sleep(0.005)

    def _receive(self, sender: WorkerProcess) -> None:
        try:
            for message in sender.channel.receive():
                if not sender.ready:
                    self._loaded(sender, unpack(message))
                    continue
                result, seconds = unpack(message)
                part, sender.part = sender.part, None
                if part is not None:
                    self._done(part, result, seconds)
        except EOFError:
            sender.process.join(0.2)  # a process that ends closes its files first
            if sender.process.exitcode is None:
                sender.kill(Verdict(DIED, "its worker closed its connection"))
        except ChannelError as error:
            sender.kill(Verdict(DIED, f"its worker's answer can't be read: {error}"))
        except Exception as error:
            sender.kill(Verdict(DIED, f"its worker's answer can't be read: {error!r}"))

    def _loaded(self, sender: WorkerProcess, failed: tuple[str, str] | None) -> None:
        """A worker that isn't forked has loaded the functions, or has failed to: (function, reason)."""
        if failed is None:
            sender.ready, self._failed_loads = True, 0
        else:
            sender.kill(Verdict(DIED, f"its worker can't load `{failed[0]}`: {failed[1]}"))

    def _remove(self, ended: WorkerProcess) -> None:
        """Remove a worker that has ended. Its part fails or is tried again."""
        if ended.part is not None:
            self._receive(ended)  # an answer that it sent before its end counts
        self._workers.remove(ended)
        system.kill_group(ended.pid)
        ended.channel.close()
        verdict = ended.verdict or Verdict(DIED, _reason(ended.process.exitcode))
        if not ended.ready:
            self._failed_loads += 1
            while self._failed_loads >= _MAX_LOADS and self._queue:
                self._fail(self._queue.popleft(), verdict)
        part = ended.part
        if part is None:
            return
        if not ended.began and part.attempts < _MAX_ATTEMPTS:
            self._queue.appendleft(part.only(part.indices, part.attempts + 1))
        elif len(part.indices) == 1 or part.together:
            self._fail(part, verdict)
        else:
            self._split(part, verdict)

    def _fail(self, part: Part, verdict: Verdict) -> None:
        self._done(part, RewardResult.failed(len(part.indices), verdict.kind, verdict.reason), 0.0)

    def _split(self, part: Part, verdict: Verdict) -> None:
        """Try each completion of a part alone. A completion that is known to be at fault fails."""
        for index in reversed(part.indices):
            alone = part.only(range(index, index + 1))
            if index == verdict.index:
                self._fail(alone, verdict)
            else:
                self._queue.appendleft(alone)

    def _check(self, now: float) -> None:
        """Check deadlines and the number of processes below each worker. Kill processes whose parents have ended."""
        since_s = now - self._checked if self._checked else 0.0
        self._checked = now
        below = set(system.children(os.getpid()))
        for each in self._workers:
            if since_s > _STOPPED_S:
                each.pause(since_s)
            verdict = each.overdue(now, self._start.limits.timeout_s)
            started = sum(1 for _ in system.descendants(each.pid))
            if started > MAX_PROCESSES:
                verdict = Verdict(DIED, f"started {started} processes or more, expected at most {MAX_PROCESSES}")
            if verdict is not None:
                each.kill(verdict)
        for orphan in below - {each.pid for each in self._workers}:
            system.kill_tree(orphan)
            system.reap(orphan)

    def _spawn(self, now: float) -> None:
        """Start the workers that are missing. If the system can't start more processes, work with fewer for now."""
        try:
            while len(self._workers) < self._start.limits.workers:
                foreign = [*self._foreign, *(each.channel.socket for each in self._workers)]
                self._forks = self._forks and spawn.may_fork()
                self._workers.append(WorkerProcess(self._start, self._functions, foreign, forked=self._forks))
        except OSError as error:
            self._lacking_since = self._lacking_since or now
            while self._queue and not self._workers and now - self._lacking_since > _NO_WORKER_S:
                self._fail(self._queue.popleft(), Verdict(DIED, f"no worker could be started: {error}"))
            return
        self._lacking_since = None


def _reason(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"its worker was killed by signal {-exitcode} (memory?)"
    return f"its worker ended with exit code {exitcode}"
