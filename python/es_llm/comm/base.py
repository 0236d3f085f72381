"""What the trainer needs of a communicator, and the two collective calls made from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar, cast

from es_llm import errors
from es_llm.errors import EsError

Result = TypeVar("Result")


class Communicator(ABC):
    """Ranks 0 .. size-1 that call the same collective operations in the same order.

    `local_size` ranks are on this host; this one is number `local_rank` of them.
    `bytes_sent` counts the payload bytes that this rank gave to collective calls.
    """

    rank: int
    size: int
    local_size: int
    local_rank: int
    bytes_sent: int = 0

    def allgather(self, payload: bytes) -> list[bytes]:
        """The payloads of all ranks, in rank order; every rank gets the same list."""
        self.bytes_sent += len(payload)
        return self._allgather(payload)

    @abstractmethod
    def _allgather(self, payload: bytes) -> list[bytes]: ...

    @abstractmethod
    def abort(self, exit_code: int) -> None:
        """End every rank of the job now: for a failure that the others can't know of."""

    def broadcast(self, payload: bytes) -> bytes:
        """Rank 0's payload, on every rank."""
        return self.allgather(payload if self.rank == 0 else b"")[0]

    def together(self, work: Callable[[], Result]) -> Result:
        """Collective: do `work` on every rank; an error that any rank meets is raised on all.

        Raises:
            EsError: the error of the lowest rank that has one.
        """
        result, error = None, None
        try:
            result = work()
        except EsError as caught:
            if caught.shared:
                raise
            error = caught
        self.agree(error)
        return cast("Result", result)

    def agree(self, error: EsError | None) -> None:
        """Collective: raise on every rank when any rank brings an error.

        Raises:
            EsError: the error of the lowest rank that has one, with its class and message, on all ranks.
        """
        told = "" if error is None else f"{type(error).__name__}:{error}"
        for message in self.allgather(told.encode()):
            if message:
                name, _, text = message.decode().partition(":")
                shared: EsError = getattr(errors, name, EsError)(text)
                shared.shared = True
                raise shared
