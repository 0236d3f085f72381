"""Watches a main thread for steps that hang: prints where it hangs, and ends the process if the job needs that."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from functools import cache
from typing import Final

from es_llm import _core

logger = logging.getLogger(__name__)

_LATER: Final = 2.0
"""The process is ended when a step exceeds `timeout_s` by this factor."""
_SLICE_S: Final = 1.0
"""Time beyond this between two looks at the clock doesn't count: the process stood still."""
_GRACE_S: Final = 10.0
"""Time that a step gets after the other ranks have ended the job."""
_LAST_WORDS: Final = (
    "es-llm: this process ends: a step took twice `unit_timeout_s`, or the other ranks ended the job; "
    "the journal is safe\n"
)


class Watchdog:
    """Watches the steps of a main thread.

    For a step longer than `timeout_s` the tracebacks of all threads are printed. By then the other ranks count this one
    as lost and continue; it may come back. If it doesn't come back within the same time again, or if the others end the
    job, the process is ended, even if its main thread holds the GIL. If no other rank is left, it is not ended.

    Tracebacks of running threads can be read only with the GIL, by a thread that gets it. If no thread gets it, the
    main thread prints its own traceback in a signal handler.

    Args:
        timeout_s: limit of one step; 0: nothing is watched.
        deadly: whether the process may be ended; the other ranks must survive that.
    """

    def __init__(self, timeout_s: float, *, deadly: bool) -> None:
        self.timeout_s = timeout_s
        self._killer = _core.Watchdog() if deadly and timeout_s > 0 else None
        self._watching = self._hurried = self._shown = False
        self._left, self._looked = timeout_s, time.monotonic()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def step(self, rank: str) -> Iterator[None]:
        """Watch a block as one step of the main thread; log an error that names this `rank` if the step took too
        long."""
        self.begin()
        start = time.monotonic()
        try:
            yield
        finally:
            self.end()
            seconds = time.monotonic() - start
            if 0 < self.timeout_s < seconds:
                logger.error(
                    "%s: a step took %.1f s, longer than `unit_timeout_s` %g, so the other ranks may have continued "
                    "without this one; unless the process was stopped, raise `unit_timeout_s` or lower "
                    "`prompts_per_unit`",
                    rank, seconds, self.timeout_s,
                )  # fmt: skip

    def begin(self) -> None:
        """The main thread begins a step."""
        if self.timeout_s <= 0:
            return
        self._left, self._looked, self._shown = self.timeout_s, time.monotonic(), False
        self._watching = True
        number, later_s = _signal(), min(self.timeout_s + 2 * _SLICE_S, 1.5 * self.timeout_s)
        self._arm(_LATER * self.timeout_s, None if number is None else (later_s, number))

    def again(self) -> None:
        """The step makes progress: restart its time."""
        with self._lock:
            if self._watching and not self._hurried:
                self.begin()

    def end(self) -> None:
        """The step is over."""
        with self._lock:
            if self._watching:
                self._watching = self._hurried = False
                if self._killer is not None:
                    self._killer.disarm()

    def look(self) -> None:
        """Print the tracebacks if the step takes too long. For another thread, at any interval."""
        with self._lock:
            now = time.monotonic()
            self._left -= min(now - self._looked, _SLICE_S)
            self._looked = now
            if not self._watching or self._shown or self._left > 0:
                return
            self._shown = True
            if self._killer is not None:
                self._killer.keep_signal()
        with contextlib.suppress(AttributeError, ValueError, io.UnsupportedOperation):  # a stderr without a file
            sys.stderr.write(
                f"es-llm: a step takes longer than `unit_timeout_s` {self.timeout_s:g}; the threads are at\n"
            )
            sys.stderr.flush()
            faulthandler.dump_traceback()

    def pardon(self) -> None:
        """No other rank is left: restart the time after which the process is ended. For another thread, at any
        interval."""
        with self._lock:
            if self._watching and not self._hurried:
                self._arm(_LATER * self.timeout_s)

    def hurry(self) -> None:
        """The other ranks ended the job: give the step a few seconds. For another thread, at any interval."""
        with self._lock:
            if self._watching and self._killer is not None and not self._hurried:
                self._hurried = True
                self._arm(_GRACE_S)

    def _arm(self, seconds: float, shown: tuple[float, int] | None = None) -> None:
        if self._killer is not None:
            self._killer.arm(seconds, message=_LAST_WORDS, signal=shown)


@cache
def _signal() -> int | None:
    """A signal whose handler prints the traceback of its thread; None if no signal is free."""
    number = getattr(signal, "SIGRTMAX", 0) - 1
    if number < 0 or signal.getsignal(number) is not signal.SIG_DFL:
        return None
    try:
        faulthandler.register(number, all_threads=False)
    except (AttributeError, ValueError, OSError, io.UnsupportedOperation):  # a stderr without a file
        return None
    return number
