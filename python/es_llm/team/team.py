"""`Team`: the ranks of a job, as one rank sees them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from es_llm._core import Loss, TeamRank
from es_llm.comm.mailbox import Mailbox
from es_llm.team.watchdog import Watchdog
from es_llm.team.wire import Wire

_FLUSH_S: Final = 10.0


class RoundKind(IntEnum):
    """What the units of a round are for."""

    ITERATION = 0
    EVALUATION = 1


class Round(NamedTuple):
    """Units of one kind of work, evaluated with the weights after `iteration` iterations."""

    kind: RoundKind
    iteration: int


class Team:
    """The ranks of a job. All ranks make the same collective calls in the same order."""

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.rank, self.size = mailbox.rank, mailbox.size
        self.local_rank, self.local_size = mailbox.local_rank, mailbox.local_size
        self.leads = False
        """Whether this rank leads the call in progress, or led the last one at its end."""
        self.calls = 0
        """Number of collective calls so far, with the one in progress: the same on all ranks."""
        self.halting = False
        """Whether `halt` was called."""
        self.machine = TeamRank(mailbox.rank, mailbox.size)
        self.wire = Wire(self.machine, mailbox)
        self.watchdog = Watchdog(0.0, deadly=False)
        self.round: Round | None = None
        """The round that this rank began last in this call."""

    @property
    def losses(self) -> dict[int, Loss]:
        """Lost ranks and why each was lost."""
        return self.machine.losses

    @property
    def speaks(self) -> bool:
        """Whether this is the lowest rank that is neither dead nor silent: it prints what all ranks know."""
        mute = {rank for rank, loss in self.losses.items() if not isinstance(loss, Loss.Failed)} - {self.rank}
        return self.rank == min(rank for rank in range(self.size) if rank not in mute)

    @property
    def traffic(self) -> tuple[int, int]:
        """Payload bytes (sent, received) so far."""
        return self.machine.traffic

    def upcoming(self, round_: Round) -> int | None:
        """The unit of the round that this rank evaluates after the one in progress, if it is known already."""
        known = self.machine.upcoming
        return known[2] if known is not None and known[:2] == tuple(round_) else None

    def renew(self, identity: int, *, assignment: str | None = None, unit_timeout_s: float = 0.0) -> None:
        """Begin another run, on all ranks between the same two calls.

        Args:
            identity: a hash of everything that must be equal on all ranks, in [0, 2**64).
            assignment: how units are assigned to ranks, one of `_core.ASSIGNMENTS`; None: the default.
            unit_timeout_s: a rank that needs longer for a unit, or is silent for longer, is lost; 0: never.
        """
        timeout_s = unit_timeout_s if self.size > 1 else 0.0
        self.machine.renew(identity, assignment=assignment, unit_timeout_s=timeout_s)
        mailbox = self.mailbox
        self.watchdog = Watchdog(timeout_s if mailbox.separate else 0.0, deadly=mailbox.tolerant)

    def start(self) -> None:
        """Begin a collective call: messages move from now on."""
        self.calls += 1
        self.leads, self.round = False, None
        self.wire.start(self.watchdog)

    def stop(self) -> None:
        """End the call: messages that were sent get a few seconds to leave."""
        self.wire.stop(_FLUSH_S)

    def close(self, exit_code: int = 0) -> None:
        """Leave the job after the last call. The process is about to end with this code, and may end here."""
        hanging = any(isinstance(loss, Loss.Silent) for loss in self.losses.values())
        if hanging and self.speaks and not self.mailbox.tolerant:
            self.mailbox.abort(exit_code)  # the launcher would wait for the silent rank
        self.mailbox.close(exit_code, complete=not hanging)

    def halt(self) -> None:
        """Ask the leader to end the call in progress, or the next one, soon. Signal handlers may call this."""
        self.halting = True

    def alive(self) -> None:
        """Report progress within a long step, so that the other ranks don't count this one as lost."""
        self.machine.alive(time.monotonic())
        self.watchdog.again()

    def begin(self, round_: Round, costs: Sequence[float]) -> None:
        """Leader: open a round of units with these expected costs, in any measure."""
        self.round = round_
        self.machine.begin(time.monotonic(), round_.kind, round_.iteration, costs)

    def restore(self, first: int, records: list[bytes]) -> bool:
        """Leader: add the records of its journal, from record `first` on; all ranks apply them. Some may have become
        known since `records()` was called; returns False if those differ."""
        return self.machine.restore(time.monotonic(), first, records)

    def records(self) -> list[bytes]:
        """The records that this rank knows."""
        return self.machine.records()

    def welcome(self, payload: bytes) -> None:
        """Leader: send a message to all ranks, and to those that join later."""
        self.machine.set_welcome(time.monotonic(), payload)

    def publish(self, iteration: int, payload: bytes) -> None:
        """Leader: send the record of an iteration, which is on the disk; all ranks apply it."""
        self.machine.publish(time.monotonic(), iteration, payload)

    def note(self, payload: bytes) -> None:
        """Leader: send a note to all ranks that take part now."""
        self.machine.note(payload)

    def digest(self, iteration: int, digest: int) -> None:
        """Report the digest of this rank's weights after the iteration."""
        self.machine.digest(time.monotonic(), iteration, digest)

    def finish(self, payload: bytes) -> None:
        """Leader: end the call with this result."""
        self.machine.finish(time.monotonic(), payload)
