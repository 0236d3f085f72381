"""One worker process as the server sees it: the part that it works on, its deadline, and why it was killed."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from es_llm.rewards.batch import DIED, TIMEOUT, Batch
from es_llm.rewards.workers import spawn, system, worker
from es_llm.rewards.workers.channel import Channel
from es_llm.rewards.workers.protocol import PartRequest, Start, pack
from es_llm.types import RewardFunction

LOAD_S: Final = 180.0
"""Seconds that a worker that isn't forked has to load the functions. No completion's time limit counts them."""
_BEGIN_S: Final = 15.0
"""Seconds that a worker has to begin a part that it was given."""
_DYING_S: Final = 10.0
"""A killed worker that still exists after this time is stuck in the kernel; stop waiting for it."""


@dataclass(frozen=True)
class Part:
    """Some completions for one worker: those of `owner`'s batch with these indices.

    together: one call returns one float for all of them.
    attempts: how often the part was given to a worker.
    """

    owner: Any
    indices: range
    name: str
    batch: Batch
    together: bool
    attempts: int = 1

    def only(self, indices: range, attempts: int = 1) -> Part:
        """The completions of this part with these indices."""
        start = self.indices.start
        batch = self.batch.part(slice(indices.start - start, indices.stop - start))
        return Part(self.owner, indices, self.name, batch, self.together, attempts)


@dataclass(frozen=True)
class Verdict:
    """Why a worker was killed. `index`: the completion at fault, if it is known."""

    kind: str
    reason: str
    index: int | None = None


class WorkerProcess:
    """A worker process. `ready`: it has loaded the functions. `part`: the part of a request it works on; None: idle."""

    def __init__(
        self,
        start: Start,
        functions: Mapping[str, RewardFunction],
        foreign: Sequence[socket.socket],
        *,
        forked: bool,
    ) -> None:
        ours, theirs = socket.socketpair()
        self.ready = forked
        try:
            if forked:
                self.process, self._deadline = spawn.fork(theirs, (*foreign, ours), functions, start.limits)
            else:
                self.process, self._deadline = spawn.start(theirs)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self.channel = Channel(ours)
        self.pid = int(self.process.pid or 0)
        self.part: Part | None = None
        self.verdict: Verdict | None = None
        self._paused_s = self._killed = 0.0
        self._given = time.monotonic()
        if not forked:
            self.channel.send(pack(start))

    def give(self, part: Part) -> None:
        """Send a part to the worker. If the worker is dead, `ended` reports it later."""
        self.part, self._deadline[:] = part, [0.0, worker.ALL]
        self._given = time.monotonic()
        self._paused_s = 0.0
        self.channel.send(pack(PartRequest(part.name, part.together, part.batch)))

    @property
    def is_free(self) -> bool:
        """True if it can be given a part."""
        return self.ready and self.part is None and self.verdict is None

    @property
    def began(self) -> bool:
        """True if it has begun its part."""
        return bool(self._deadline[0] != 0)

    @property
    def ended(self) -> bool:
        """True if it has ended, or was killed and is stuck in the kernel."""
        dying = self.verdict is not None and time.monotonic() - self._killed > _DYING_S
        return self.process.exitcode is not None or dying

    def pause(self, seconds: float) -> None:
        """Extend its deadlines: this process, and so its workers, were stopped for this time."""
        self._paused_s += seconds

    def overdue(self, now: float, limit_s: float) -> Verdict | None:
        """The verdict if it has exceeded a time limit."""
        if self.verdict is not None:
            return None
        waited_s = now - self._given - self._paused_s
        if not self.ready:
            late = f"its worker didn't load the functions within {LOAD_S:g} s"
            return Verdict(DIED, late) if waited_s > LOAD_S else None
        if self.part is None:
            return None
        if not self.began:
            late = f"its worker didn't begin within {_BEGIN_S:g} s"
            return Verdict(DIED, late) if waited_s > _BEGIN_S else None
        deadline, index = self._deadline
        if now - self._paused_s <= deadline or deadline != self._deadline[0]:  # in time, or just begins the next one
            return None
        if index == worker.ANSWERING:
            return Verdict(DIED, f"its worker's answer didn't arrive within {worker.ANSWER_S:g} s")
        known = 0 <= index < len(self.part.indices)
        return Verdict(TIMEOUT, f"took longer than {limit_s:g} s", self.part.indices[int(index)] if known else None)

    def kill(self, verdict: Verdict) -> None:
        """Kill it and everything that it started."""
        if self.verdict is None:
            self.verdict, self._killed = verdict, time.monotonic()
        system.kill_tree(self.pid)
