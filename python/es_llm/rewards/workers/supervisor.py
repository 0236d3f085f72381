"""Workers that may die at any moment: who they are, what each one is at, and how it ended.

One thread owns all of this, and never waits for one worker alone. Nothing is shared but the few bytes in which a worker
notes which completion it is at and when its time is over: the limit is held from outside, so it holds for workers that
sit in C code with Python's lock, or that are stopped. Knows nothing about who asked.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from es_llm.rewards.batch import DIED, TIMEOUT, Batch, Scores
from es_llm.rewards.workers import spawn, system, worker
from es_llm.rewards.workers.channel import Channel, ChannelError
from es_llm.rewards.workers.protocol import Start, Task, packed, unpacked

MOST_PROCESSES: Final = 64
"""A worker that starts more processes than that is killed with all of them."""
LOOK_S: Final = 0.02
"""How often time limits and the processes of workers are looked at while there is work."""
REST_S: Final = 0.25
"""How often where there is none."""
_ABSENT_S: Final = 1.0
"""Not having looked for so long means that this process was stopped, its workers too: nobody is late by that time."""
_BEGIN_S: Final = 15.0
"""A worker that doesn't begin with what it was given within that time is killed."""
_DYING_S: Final = 10.0
"""A worker that was killed so long ago, and is still there, sits in the system: nobody waits for it."""
_TRIES: Final = 5
"""So often work is given out whose worker ended before it began."""
_NO_WORKER_S: Final = 30.0
"""So long no process could be started before waiting work fails."""
_LOAD_S: Final = 180.0
"""A worker that is a program of its own has this many seconds to load the functions. They count against no
completion's time limit."""
_LOADS: Final = 3
"""Number of workers in a row that may fail to load the functions; then waiting work fails."""


@dataclass(frozen=True)
class Part:
    """Some completions for one worker: `places` of `owner`'s batch. `together`: one call gives one float for all."""

    owner: Any
    places: range
    name: str
    batch: Batch
    together: bool
    tries: int = 1

    def only(self, places: range, tries: int = 1) -> Part:
        """A part of this part."""
        start = self.places.start
        batch = self.batch.part(places.start - start, places.stop - start)
        return Part(self.owner, places, self.name, batch, self.together, tries)


@dataclass(frozen=True)
class Verdict:
    """Why a worker was killed; `place`: the completion that is to blame, where that is known."""

    kind: str
    why: str
    place: int | None = None


class Member:
    """One worker process and the part that it is at."""

    def __init__(self, start: Start, foreign: Sequence[socket.socket], *, forked: bool) -> None:
        ours, theirs = socket.socketpair()
        self.ready = forked
        try:
            if self.ready:
                self.process, self._note = spawn.fork(theirs, (*foreign, ours), start.limit_s, start.memory_mb)
            else:
                self.process, self._note = spawn.start(theirs)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.channel = Channel(ours)
        self.pid = int(self.process.pid or 0)
        self.part: Part | None = None
        self.verdict: Verdict | None = None
        self.slack_s = self._killed = 0.0
        self._given = time.monotonic()
        if not self.ready:
            self.channel.send(packed(start))

    def give(self, part: Part) -> None:
        """Let it work. That it has died meanwhile shows in its end."""
        self.part, self._note[:] = part, [0.0, worker.TOGETHER]
        self._given = time.monotonic()
        self.slack_s = 0.0
        self.channel.send(packed(Task(part.name, part.together, part.batch)))

    @property
    def began(self) -> bool:
        """Whether it began with its part."""
        return bool(self._note[0] != 0)

    @property
    def ended(self) -> bool:
        """Whether it ended, or is as good as dead."""
        dying = self.verdict is not None and time.monotonic() - self._killed > _DYING_S
        return self.process.exitcode is not None or dying

    def judge(self, now: float, limit_s: float) -> Verdict | None:
        """Whether it is late."""
        if not self.ready and self.verdict is None:
            late = now - self._given - self.slack_s > _LOAD_S
            return Verdict(DIED, f"its worker didn't load the functions within {_LOAD_S:g} s") if late else None
        if self.part is None or self.verdict is not None:
            return None
        if not self.began:
            late = now - self._given - self.slack_s > _BEGIN_S
            return Verdict(DIED, f"its worker didn't begin within {_BEGIN_S:g} s") if late else None
        end, place = self._note
        if now - self.slack_s <= end or end != self._note[0]:  # in time, or just at the next one
            return None
        if place == worker.ANSWERING:
            return Verdict(DIED, f"its worker's answer didn't come within {worker.ANSWER_S:g} s")
        known = 0 <= place < len(self.part.places)
        return Verdict(TIMEOUT, f"took longer than {limit_s:g} s", self.part.places[int(place)] if known else None)

    def kill(self, verdict: Verdict) -> None:
        """End it and everything that it started."""
        if self.verdict is None:
            self.verdict, self._killed = verdict, time.monotonic()
        system.kill_tree(self.pid)


class Crew:
    """So many workers, and the parts that wait for one.

    Args:
        start: how many, what they may take, and the functions for those that load them themselves.
        foreign: sockets of this process that workers must not hold.
        done: called with a part, its scores and the seconds that they took (0.0 where its worker ended).
    """

    def __init__(
        self,
        start: Start,
        *,
        foreign: Sequence[socket.socket],
        done: Callable[[Part, Scores, float], None],
    ) -> None:
        self._start, self._done = start, done
        self._foreign = foreign
        self._members: list[Member] = []
        self._queue: deque[Part] = deque()
        self._alone_since: float | None = None
        self._looked = 0.0
        self._unloaded = 0
        self._forks = True

    def add(self, part: Part) -> None:
        """A part that waits for a worker."""
        self._queue.append(part)

    @property
    def look_s(self) -> float:
        """How long one may wait until the next `step`."""
        return LOOK_S if self._queue or any(member.part is not None for member in self._members) else REST_S

    def channels(self) -> Iterator[tuple[Channel, int]]:
        """Of each worker: its channel, and its sentinel, which can be read when it has ended."""
        for member in self._members:
            yield member.channel, member.process.sentinel

    def step(self) -> None:
        """Take what workers have said, see who ended, who is late and who has started too much, give out work."""
        for member in list(self._members):
            member.channel.flush()
            self._hear(member)
            if member.ended:
                self._bury(member)
        now = time.monotonic()
        if now - self._looked >= LOOK_S:
            self._look(now)
        self._hire(now)
        for member in self._members:
            if member.ready and member.part is None and member.verdict is None and self._queue:
                member.give(self._queue.popleft())

    def end(self) -> None:
        """Kill everything below this process, until there is nothing."""
        for member in self._members:
            system.kill_tree(member.pid)
        end = time.monotonic() + 5
        while (below := system.children(os.getpid())) and time.monotonic() < end:
            for child in below:
                system.kill_tree(child)
                system.bury(child)
            time.sleep(0.005)

    def _hear(self, member: Member) -> None:
        """Its answer, if it has one."""
        try:
            for message in member.channel.receive():
                if not member.ready:
                    self._loaded(member, unpacked(message))
                    continue
                scores, seconds = unpacked(message)
                part, member.part = member.part, None
                if part is not None:
                    self._done(part, scores, seconds)
        except EOFError:
            member.process.join(0.2)  # a process that ends closes its files first
            if member.process.exitcode is None:
                member.kill(Verdict(DIED, "its worker closed its connection"))
        except ChannelError as error:
            member.kill(Verdict(DIED, f"its worker's answer can't be read: {error}"))
        except Exception as error:
            member.kill(Verdict(DIED, f"its worker's answer can't be read: {error!r}"))

    def _loaded(self, member: Member, failed: tuple[str, str] | None) -> None:
        """A worker that is a program of its own has loaded the functions, or failed to."""
        if failed is None:
            member.ready, self._unloaded = True, 0
        else:
            member.kill(Verdict(DIED, f"its worker can't load `{failed[0]}`: {failed[1]}"))

    def _bury(self, member: Member) -> None:
        """It ended: what it was at fails or is tried again."""
        if member.part is not None:
            self._hear(member)  # an answer that was given before the end counts
        self._members.remove(member)
        system.kill_group(member.pid)
        member.channel.close()
        verdict = member.verdict or Verdict(DIED, _told(member.process.exitcode))
        if not member.ready:
            self._unloaded += 1
            while self._unloaded >= _LOADS and self._queue:
                self._fail(self._queue.popleft(), verdict)
        part = member.part
        if part is None:
            return
        if not member.began and part.tries < _TRIES:
            self._queue.appendleft(part.only(part.places, part.tries + 1))
        elif len(part.places) == 1 or part.together:
            self._fail(part, verdict)
        else:
            self._split(part, verdict)

    def _fail(self, part: Part, verdict: Verdict) -> None:
        self._done(part, Scores.failed(len(part.places), verdict.kind, verdict.why), 0.0)

    def _split(self, part: Part, verdict: Verdict) -> None:
        """Each completion is tried by itself, but for one that is known to be at fault."""
        for place in reversed(part.places):
            alone = part.only(range(place, place + 1))
            if place == verdict.place:
                self._fail(alone, verdict)
            else:
                self._queue.appendleft(alone)

    def _look(self, now: float) -> None:
        """Time limits, processes of workers, and processes whose parents are gone."""
        absent = now - self._looked if self._looked else 0.0
        self._looked = now
        below = set(system.children(os.getpid()))
        for member in self._members:
            if absent > _ABSENT_S:
                member.slack_s += absent
            verdict = member.judge(now, self._start.limit_s)
            crowd = sum(1 for _ in system.descendants(member.pid))
            if crowd > MOST_PROCESSES:
                verdict = Verdict(DIED, f"started {crowd} processes or more (limit {MOST_PROCESSES})")
            if verdict is not None:
                member.kill(verdict)
        for orphan in below - {member.pid for member in self._members}:
            system.kill_tree(orphan)
            system.bury(orphan)

    def _hire(self, now: float) -> None:
        """As many workers as there should be; where the system has no process left, fewer for now."""
        try:
            while len(self._members) < self._start.workers:
                foreign = [*self._foreign, *(member.channel.socket for member in self._members)]
                self._forks = self._forks and spawn.may_fork()
                self._members.append(Member(self._start, foreign, forked=self._forks))
        except OSError as error:
            self._alone_since = self._alone_since or now
            while self._queue and not self._members and now - self._alone_since > _NO_WORKER_S:
                self._fail(self._queue.popleft(), Verdict(DIED, f"no worker could be had: {error}"))
            return
        self._alone_since = None


def _told(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"its worker was killed by signal {-exitcode} (memory?)"
    return f"its worker ended with exit code {exitcode}"
