"""One event loop for everything that is awaited: what a function keeps between its calls stays usable.

A semaphore, a lock or a client belongs to the loop that it was first awaited in. So the loop lives as long as its
owner (a worker, or the run where functions are called in the trainer's process), in a thread of its own: tasks that a
function leaves running go on between calls, and a loop that runs in the caller's thread (a notebook) is no obstacle.
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
"""Seconds after which a waiting caller checks that the loop still runs."""
_END_S: Final = 2.0
"""Tasks that are cancelled at the end have that time."""


class Loop:
    """An event loop in a thread, which begins with the first `run` and ends with `close` or with the process.

    `stuck` says that a cancelled task doesn't end, so that what it holds is never given back.
    """

    def __init__(self) -> None:
        self.stuck = False
        self._running: _Running | None = None
        self._finalizer: Any = None

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """The result of an awaitable, in the caller's context.

        Raises:
            RewardError: the function closed the loop.
            BaseException: whatever the awaitable raises.
        """
        if self._running is None or not self._running.alive:
            self._running = _Running()
            self._finalizer = weakref.finalize(self, self._running.end)
        return self._running.result(awaitable)

    def close(self) -> None:
        """Cancel what still runs, and end the thread; the next `run` begins another one."""
        if self._finalizer is not None:
            self._finalizer()
        self._running = self._finalizer = None


class _Running:
    """A loop and its thread."""

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
            """Whatever is raised ends here: some classes would end the loop."""
            try:
                return await awaitable, None
            except BaseException as error:
                return None, error
            finally:
                if os.getpid() != pid:  # a child that the function forked came back from it
                    os._exit(1)

        future = asyncio.run_coroutine_threadsafe(wait(), self._loop)
        try:
            value, error = self._waited(future)
        except BaseException:  # the user's interrupt
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
                raise RewardError("the event loop of the rewards was closed while a function was awaited")

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        while not self._ending and not self._loop.is_closed():
            with contextlib.suppress(BaseException):  # of a task that a function left running: SystemExit, say
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
        """End the thread, unless a function blocks it: then it ends with the process."""
        self._ending = True
        with contextlib.suppress(RuntimeError):  # closed
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(2 * _END_S + 1.0)


async def left_over(tasks: Collection[asyncio.Task[Any]], limit_s: float, ended: Callable[[], None]) -> set[Any]:
    """Await tasks; those that are left when none has ended for `limit_s` seconds (0: any time).

    They may wait for each other, for a semaphore say: a queue that moves isn't late. `ended` is called at the end of
    each, but never after this has returned.
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
