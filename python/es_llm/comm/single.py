"""The mailbox of a job of one process."""

from __future__ import annotations

import secrets

from es_llm.comm.mailbox import Mailbox


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
