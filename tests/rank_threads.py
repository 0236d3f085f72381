"""Ranks as threads of one process, for tests and simulations."""

from __future__ import annotations

import secrets
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from es_llm.comm.mailbox import Mailbox

Result = TypeVar("Result")


class Died(BaseException):
    """Raised in the thread of a rank that is dead."""


def run_ranks(size: int, work: Callable[[ThreadMailbox], Result], timeout_s: float = 120.0) -> list[Result | None]:
    """Run `work(mailbox)` on `size` ranks at once; returns the results in rank order, None for ranks that died.

    Raises:
        The first error of any rank; the others count that rank as dead.
        TimeoutError: a rank didn't finish in time.
    """
    shared = _Shared(size)
    results: list[Any] = [None] * size
    failures: list[BaseException] = []

    def run(rank: int) -> None:
        mailbox = ThreadMailbox(rank, shared)
        try:
            results[rank] = work(mailbox)
        except Died:
            pass
        except BaseException as error:
            failures.append(error)
            shared.dead.add(rank)

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_s)
    if failures:
        raise failures[0]
    if any(thread.is_alive() for thread in threads):
        raise TimeoutError(f"ranks didn't finish within {timeout_s:g} s")
    return results


class _Shared:
    def __init__(self, size: int) -> None:
        self.boxes: list[deque[tuple[int, bytes]]] = [deque() for _ in range(size)]
        self.dead: set[int] = set()
        self.job = secrets.token_hex(8)


class ThreadMailbox(Mailbox):
    """One rank among the threads of `run_ranks`."""

    concurrent = True

    def __init__(self, rank: int, shared: _Shared) -> None:
        self.rank = self.local_rank = rank
        self.size = self.local_size = len(shared.boxes)
        self.job = shared.job
        self._shared = shared
        self._returned: set[int] = set()

    def send(self, to: int, payload: bytes) -> None:
        """Append the message to the other rank's queue."""
        self._live()
        self._shared.boxes[to].append((self.rank, bytes(payload)))

    def receive(self) -> list[tuple[int, bytes]]:
        """Return all messages of this rank's queue."""
        self._live()
        box, messages = self._shared.boxes[self.rank], []
        while box:
            messages.append(box.popleft())
        return messages

    def lost(self) -> list[int]:
        """Ranks that died or failed."""
        new = sorted(self._shared.dead - self._returned - {self.rank})
        self._returned.update(new)
        return new

    def pending(self) -> bool:
        """Messages arrive at once."""
        return False

    def die(self) -> None:
        """Make this rank dead. From now on, sending and receiving raise `Died`.

        Raises:
            Died: always.
        """
        self._shared.dead.add(self.rank)
        raise Died

    def abort(self, exit_code: int) -> None:
        """Make all ranks dead."""
        self._shared.dead.update(range(self.size))
        raise SystemExit(exit_code)

    def _live(self) -> None:
        if self.rank in self._shared.dead:
            raise Died
