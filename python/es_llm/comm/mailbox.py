"""What the team needs of a transport: bytes from rank to rank, and who died."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod


class Mailbox(ABC):
    """Ranks 0 .. size-1 that send each other bytes; between two ranks messages keep their order.

    `local_size` ranks are on this host; this one is number `local_rank` of them. `job` is the same text on all ranks of
    the job, and another one in every other job. `concurrent` says whether one thread may use the mailbox while another
    one computes; two threads never use it at once. `separate` says whether each rank is a process of its own, and
    `tolerant` whether the others go on when such a process dies.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    job: str
    concurrent: bool
    separate: bool = False
    tolerant: bool = False

    @abstractmethod
    def send(self, to: int, payload: bytes) -> None:
        """Send, without waiting. What is sent to a dead rank is dropped."""

    @abstractmethod
    def receive(self) -> list[tuple[int, bytes]]:
        """All messages that have come, as (from, payload), without waiting."""

    @abstractmethod
    def lost(self) -> list[int]:
        """Ranks found dead since the last call; each is told once."""

    @abstractmethod
    def pending(self) -> bool:
        """Whether something that was sent to a living rank hasn't left yet."""

    @abstractmethod
    def abort(self, exit_code: int) -> None:
        """End every rank of the job now."""

    def flush(self, timeout_s: float) -> bool:
        """Wait until what was sent has left, for so long at most; whether it has."""
        end = time.monotonic() + timeout_s
        while self.pending():
            if time.monotonic() > end:
                return False
            time.sleep(0.001)
        return True

    def close(self, exit_code: int = 0, *, complete: bool = True) -> None:
        """Nothing will be sent or received any more. The process is about to end with this code, and may end here.

        Args:
            exit_code: of the process.
            complete: whether all ranks that live come to this point; they may wait for each other here.
        """
        return
