"""`Team`: the ranks of a job, from one rank's side."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from es_llm._core import TeamRank
from es_llm.comm.mailbox import Mailbox
from es_llm.team.call import Call
from es_llm.team.program import Program, Round
from es_llm.team.watchdog import Watchdog
from es_llm.team.wire import Wire

_FLUSH_S: Final = 10.0


class Team:
    """The ranks of a job. All ranks make the same calls in the same order.

    Args:
        mailbox: how bytes get to the other ranks.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self.mailbox = mailbox
        self.rank, self.size = mailbox.rank, mailbox.size
        self.local_rank, self.local_size = mailbox.local_rank, mailbox.local_size
        self.halted: Callable[[], bool] = lambda: False
        """Whether this process was asked to end soon; looked at between steps."""
        self._machine = TeamRank(mailbox.rank, mailbox.size)
        self._wire = Wire(self._machine, mailbox)
        self._call: Call | None = None
        self.calls = 0
        """Calls made so far, with the one in progress: the same number on all ranks."""

    @property
    def leads(self) -> bool:
        """Whether this rank leads the call in progress, or led the last one at its end."""
        return self._call is not None and self._call.leading

    @property
    def losses(self) -> dict[int, str]:
        """Ranks that were lost, and why: "dead", "silent", or "resigned: " and why."""
        return self._machine.losses

    @property
    def speaks(self) -> bool:
        """Whether this is the lowest rank that lives and doesn't hang: it tells what all ranks know."""
        mute = {rank for rank, why in self.losses.items() if why in ("dead", "silent") and rank != self.rank}
        return self.rank == min(rank for rank in range(self.size) if rank not in mute)

    @property
    def traffic(self) -> tuple[int, int]:
        """Payload bytes (sent, received) so far."""
        return self._machine.traffic

    def upcoming(self, round_: Round) -> int | None:
        """The unit of the round that this rank evaluates after the one in work, if it is known already."""
        known = self._machine.upcoming
        return known[2] if known is not None and known[:2] == tuple(round_) else None

    def renew(self, identity: int, *, policy: str = "dynamic", unit_timeout_s: float = 0.0) -> None:
        """Another run begins, on all ranks at the same place.

        Args:
            identity: stands for everything that must be the same on all ranks, in [0, 2**64).
            policy: how units are handed out, "static" or "dynamic".
            unit_timeout_s: a rank that needs longer for a unit, or is silent for so long, counts as lost; 0: never.
        """
        timeout_s = unit_timeout_s if self.size > 1 else 0.0
        self._machine.renew(identity, policy=policy, unit_timeout_s=timeout_s)
        mailbox = self.mailbox
        self._wire.watchdog = Watchdog(timeout_s if mailbox.separate else 0.0, deadly=mailbox.tolerant)

    def close(self, exit_code: int = 0) -> None:
        """The last call was made, and the process is about to end with this code; it may end here."""
        hanging = "silent" in self.losses.values()
        if hanging and self.speaks and not self.mailbox.tolerant:
            self.mailbox.abort(exit_code)  # the launcher would wait for it
        self.mailbox.close(exit_code, complete=not hanging)

    def call(self, program: Program) -> bytes:
        """Collective: run `program` to its end; the result that its leader gave to `finish`.

        Raises:
            EsError: what a rank's program raised, on all ranks, with `shared` set.
            CommunicationError: a rank failed and the program isn't tolerant, or ranks don't fit together.
            LeftOutError: this rank failed or was too late, and the others ended the call without it.
        """
        self.calls += 1
        self._call = Call(self, self._machine, self._wire, program)
        self._wire.start()
        try:
            return self._call.run()
        finally:
            self._wire.stop(_FLUSH_S)

    def begin(self, round_: Round, costs: Sequence[float]) -> None:
        """Leader: open a round of units with these expected costs, in any measure."""
        assert self._call is not None
        self._call.begin(round_, list(costs))

    def alive(self) -> None:
        """A step that takes long is getting on: the others needn't take this rank for one that hangs."""
        self._machine.alive(time.monotonic())
        self._wire.watchdog.again()

    def restore(self, first: int, records: list[bytes]) -> bool:
        """Leader: what its journal holds from record `first` on; each is applied by all ranks. Some may have become
        known since `records()` was asked; false if other ones did."""
        return self._machine.restore(time.monotonic(), first, records)

    def records(self) -> list[bytes]:
        """The records this rank knows."""
        return self._machine.records()

    def welcome(self, payload: bytes) -> None:
        """Leader: tell all ranks, and those that come later."""
        self._machine.set_welcome(time.monotonic(), payload)

    def publish(self, iteration: int, payload: bytes) -> None:
        """Leader: the record of an iteration, which is on the disk; all ranks apply it."""
        self._machine.publish(time.monotonic(), iteration, payload)

    def note(self, payload: bytes) -> None:
        """Leader: something for all ranks that take part now."""
        self._machine.note(payload)

    def digest(self, iteration: int, digest: int) -> None:
        """This rank's weights after the iteration."""
        self._machine.digest(time.monotonic(), iteration, digest)

    def finish(self, payload: bytes) -> None:
        """Leader: the call's result."""
        self._machine.finish(time.monotonic(), payload)
