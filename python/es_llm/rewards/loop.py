"""One event loop for all async reward functions of a process.

A semaphore, a lock or a client belongs to the loop in which it was first awaited. So the loop lives as long as its
owner: a worker, or the run if functions are called in the trainer's process. What a function keeps between calls stays
usable. The loop has a thread of its own: tasks that a function leaves running continue between calls, and the caller's
thread may have a loop already, as in a notebook.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

from es_llm.errors import RewardError

_LOOK_S: Final = 0.5
"""Seconds between checks, in a waiting caller, that the loop still runs."""
_END_S: Final = 2.0
"""Seconds that cancelled tasks have to end when the loop ends."""


class Loop:
    """An event loop in a thread. The thread begins with the first `run` and ends with `close` or with the process.

    `stuck` is true if a cancelled task didn't end, so that the locks and semaphores it holds are never released.
    """

    def __init__(self) -> None:
        self.stuck = False
        self._running: _Running | None = None
        self._finalizer: Any = None

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """The result of an awaitable, in the caller's context."""
        if self._running is None or not self._running.alive:
            self._running = _Running()
            self._finalizer = weakref.finalize(self, self._running.end)
        return self._running.result(awaitable)

    def close(self) -> None:
        """Cancel all running tasks and end the thread. The next `run` begins another one."""
        if self._finalizer is not None:
            self._finalizer()
        self._running = self._finalizer = None


class _Running:
    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._ending = False
        self._thread = threading.Thread(target=self._serve, name="es_llm rewards", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._loop.is_closed()

    def result(self, awaitable: Awaitable[Any]) -> Any:
        pid = os.getpid()

        async def wait() -> tuple[Any, BaseException | None]:
            """Catches everything: some classes of errors would end the loop."""
            try:
                return await awaitable, None
            except BaseException as error:
                return None, error
            finally:
                end_fork(pid)

        future = asyncio.run_coroutine_threadsafe(wait(), self._loop)
        try:
            value, error = self._waited(future)
        except BaseException:  # the user's KeyboardInterrupt
            future.cancel()
            raise
        if error is not None:
            raise error
        return value

    def _waited(self, future: concurrent.futures.Future[Any]) -> Any:
        while True:
            done, _ = concurrent.futures.wait([future], _LOOK_S)
            if done:
                return future.result()
            if not self.alive:
                raise RewardError("the event loop of the rewards was closed while a function was awaited in it")

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        while not self._ending and not self._loop.is_closed():
            with contextlib.suppress(BaseException):  # a task that a function left running may raise SystemExit
                self._loop.run_forever()
        if not self._loop.is_closed():
            with contextlib.suppress(BaseException):
                self._loop.run_until_complete(self._cancelled())
            with contextlib.suppress(Exception):  # a thread of the function may close the loop at this moment
                self._loop.close()

    async def _cancelled(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_END_S)
        await asyncio.wait_for(self._loop.shutdown_asyncgens(), _END_S)

    def end(self) -> None:
        """End the thread. If a function blocks it, it ends with the process instead."""
        self._ending = True
        with contextlib.suppress(RuntimeError):  # closed
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2 * _END_S + 1.0)


def end_fork(pid: int) -> None:
    """End this process unless it is `pid`: a function forked, and this child returned from the function."""
    if os.getpid() != pid:
        os._exit(1)


async def left_over(tasks: Collection[asyncio.Task[Any]], limit_s: float, ended: Callable[[], None]) -> set[Any]:
    """Await tasks until none has ended for `limit_s` seconds (0: no limit), and return those that are left.

    Tasks may wait for each other, for example for a semaphore, so the limit begins again when a task ends. `ended` is
    called at the end of each task, but never after this function has returned.
    """
    clock = asyncio.get_running_loop().time
    last, watched = clock(), True

    def note(task: asyncio.Task[Any]) -> None:
        nonlocal last
        if watched:
            last = clock()
            ended()

    for task in tasks:
        task.add_done_callback(note)
    left = set(tasks)
    try:
        while left and (limit_s == 0 or clock() < last + limit_s):
            _, left = await asyncio.wait(left, timeout=last + limit_s - clock() if limit_s else None)
    finally:
        watched = False
    return left
