"""`Mailbox`: the interface between the team and a transport; and that of a job of one process."""

from __future__ import annotations

import secrets
import time
from abc import ABC, abstractmethod


class Mailbox(ABC):
    """One of the ranks 0 .. size-1, which send each other bytes. Messages between two ranks keep their order. Only one
    thread at a time uses a mailbox."""

    rank: int
    size: int
    local_rank: int
    """Index of this rank among the ranks of its host."""
    local_size: int
    """Number of ranks of this host."""
    job: str
    """A text that identifies the job: equal on all its ranks, different in every other job."""
    concurrent: bool
    """Whether one thread may use the mailbox while another one computes."""
    separate: bool = False
    """Whether each rank is a separate process."""
    tolerant: bool = False
    """Whether the other ranks continue when the process of one dies."""

    @abstractmethod
    def send(self, to: int, payload: bytes) -> None:
        """Send a message without waiting. Messages to dead ranks are dropped."""

    @abstractmethod
    def receive(self) -> list[tuple[int, bytes]]:
        """All messages that have arrived, as (sender, payload), without waiting."""

    @abstractmethod
    def lost(self) -> list[int]:
        """Ranks found dead since the last call; each is returned once."""

    @abstractmethod
    def pending(self) -> bool:
        """Whether a message to a living rank hasn't left yet."""

    @abstractmethod
    def abort(self, exit_code: int) -> None:
        """End every rank of the job now."""

    def flush(self, timeout_s: float) -> bool:
        """Wait until all messages have left, for `timeout_s` at most; returns whether they have."""
        end = time.monotonic() + timeout_s
        while self.pending():
            if time.monotonic() > end:
                return False
            time.sleep(0.001)
        return True

    def close(self, exit_code: int = 0, *, complete: bool = True) -> None:
        """Leave the job: no message is sent or received from now on. The process may end here.

        Args:
            exit_code: code with which the process is about to end.
            complete: whether all living ranks call `close`, so that they may wait for each other.
        """
        return


class SingleMailbox(Mailbox):
    """The only rank of its job."""

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1
    concurrent = True

    def __init__(self) -> None:
        self.job = secrets.token_hex(8)

    def send(self, to: int, payload: bytes) -> None:
        """There is no other rank."""
        raise AssertionError(f"rank {to} of a job of one rank")

    def receive(self) -> list[tuple[int, bytes]]:
        """No message ever arrives."""
        return []

    def lost(self) -> list[int]:
        """There is no other rank."""
        return []

    def pending(self) -> bool:
        """Nothing was sent."""
        return False

    def abort(self, exit_code: int) -> None:
        """End this process."""
        raise SystemExit(exit_code)
