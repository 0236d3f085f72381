"""What becomes of a process whose main thread hangs: it is told where, and doesn't keep the job from ending."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import signal
import sys
import threading
import time
from functools import cache
from typing import Final

from es_llm import _core

_LATER: Final = 2.0
"""A step that takes so many times as long as it may ends its process."""
_SLICE_S: Final = 1.0
"""What passes beyond that between two looks doesn't count: the process stood still."""
_GRACE_S: Final = 10.0
"""A step that others don't wait for any more may take so long."""
_LAST_WORDS: Final = (
    "es-llm: this process ends: a step takes twice `unit_timeout_s`, or longer than the others go on; "
    "what the journal holds is safe\n"
)


class Watchdog:
    """Watches the steps of a main thread.

    A step longer than `timeout_s` is shown with the tracebacks of all threads. The others took this rank for lost by
    then, and go on; it may come back. If it doesn't for as long again, or the others end the job, the process is ended,
    also while its main thread holds the GIL. If no others are left, nobody waits for it, and it is let alone.

    Tracebacks of threads that run can't be read without the GIL: a thread that has it reads them. If none gets it, the
    main thread reads its own, in the handler of a signal.

    Args:
        timeout_s: of one step; 0: nothing is watched.
        deadly: whether the process may be ended: the others must survive that.
    """

    def __init__(self, timeout_s: float, *, deadly: bool) -> None:
        self.timeout_s = timeout_s
        self._killer = _core.Watchdog() if deadly and timeout_s > 0 else None
        self._watching = self._hurried = self._shown = False
        self._left, self._looked = timeout_s, time.monotonic()
        self._lock = threading.Lock()

    def begin(self) -> None:
        """The main thread begins a step."""
        if self.timeout_s <= 0:
            return
        self._left, self._looked, self._shown = self.timeout_s, time.monotonic(), False
        self._watching = True
        number, later_s = _signal(), min(self.timeout_s + 2 * _SLICE_S, 1.5 * self.timeout_s)
        self._arm(_LATER * self.timeout_s, None if number is None else (later_s, number))

    def again(self) -> None:
        """The step that is watched is getting on: its time begins anew."""
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
        """Show a step that takes too long; called by another thread, as often as it likes."""
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
        """No other rank is left to go on without this one; called by another thread, as often as it likes."""
        with self._lock:
            if self._watching and not self._hurried:
                self._arm(_LATER * self.timeout_s)

    def hurry(self) -> None:
        """Nobody waits for this step any more; called by another thread, as often as it likes."""
        with self._lock:
            if self._watching and self._killer is not None and not self._hurried:
                self._hurried = True
                self._arm(_GRACE_S)

    def _arm(self, seconds: float, shown: tuple[float, int] | None = None) -> None:
        if self._killer is not None:
            self._killer.arm(seconds, message=_LAST_WORDS, signal=shown)


@cache
def _signal() -> int | None:
    """A signal at which a thread shows where it is; None if there is none to spare."""
    number = getattr(signal, "SIGRTMAX", 0) - 1
    if number < 0 or signal.getsignal(number) is not signal.SIG_DFL:
        return None
    try:
        faulthandler.register(number, all_threads=False)
    except (AttributeError, ValueError, OSError, io.UnsupportedOperation):  # a stderr without a file
        return None
    return number
