"""Many ranks as threads of one process: for tests and simulations."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from es_llm.comm.base import Communicator

Result = TypeVar("Result")


def run_ranks(size: int, work: Callable[[Communicator], Result], timeout_s: float = 120.0) -> list[Result]:
    """Run `work(communicator)` on `size` ranks at once; their results in rank order.

    Raises:
        The first error of any rank; the other ranks are released.
    """
    shared = _Shared(size)
    results: list[Any] = [None] * size
    failures: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadCommunicator(rank, shared))
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            failures.append(error)
            shared.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout_s)
    if failures:
        raise failures[0]
    if any(thread.is_alive() for thread in threads):
        raise TimeoutError(f"ranks didn't finish within {timeout_s} s")
    return results


class _Shared:
    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)
        self.slots: list[bytes] = [b""] * size


class ThreadCommunicator(Communicator):
    """One rank among the threads of `run_ranks`."""

    def __init__(self, rank: int, shared: _Shared) -> None:
        self.rank = self.local_rank = rank
        self.size = self.local_size = len(shared.slots)
        self._shared = shared

    def _allgather(self, payload: bytes) -> list[bytes]:
        self._shared.slots[self.rank] = payload
        self._shared.barrier.wait()
        gathered = list(self._shared.slots)
        self._shared.barrier.wait()
        return gathered

    def abort(self, exit_code: int) -> None:
        """Release the other ranks and end this one."""
        self._shared.barrier.abort()
        raise SystemExit(exit_code)
