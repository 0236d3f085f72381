"""What becomes of a process whose main thread hangs: it is told where, and doesn't keep the job from ending."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import threading
from typing import Final

from es_llm import _core

_LATER: Final = 2.0
"""A step that takes so many times as long as it may ends its process."""
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

    Args:
        timeout_s: of one step; 0: nothing is watched.
        deadly: whether the process may be ended: the others must survive that.
    """

    def __init__(self, timeout_s: float, *, deadly: bool) -> None:
        self.timeout_s = timeout_s
        self._killer = _core.Watchdog() if deadly and timeout_s > 0 else None
        self._watching = self._hurried = False
        self._lock = threading.Lock()

    def begin(self) -> None:
        """The main thread begins a step."""
        if self.timeout_s <= 0:
            return
        self._watching = True
        with contextlib.suppress(AttributeError, ValueError, io.UnsupportedOperation):  # a stderr without a file
            faulthandler.dump_traceback_later(self.timeout_s)
        self._arm(_LATER * self.timeout_s)

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
                faulthandler.cancel_dump_traceback_later()
                if self._killer is not None:
                    self._killer.disarm()

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

    def _arm(self, seconds: float) -> None:
        if self._killer is not None:
            self._killer.arm(seconds, message=_LAST_WORDS)
