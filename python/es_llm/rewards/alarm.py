"""A limit of time for Python code in the main thread, where the system has SIGALRM; elsewhere there is none.

For code that the worker's limit would end too, but as a failure of the whole worker. It doesn't interrupt C code.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from types import FrameType
from typing import Any, Final


class OverTimeError(BaseException):
    """The time is over. No `Exception`: libraries that catch those let it pass."""


_AGAIN_S: Final = 0.5
"""It is raised again so often: where it is raised in a destructor, nobody sees it."""


class TimeLimit:
    """Raise `OverTimeError` in the block after `seconds`. A timer that runs already runs on afterwards.

    Raises:
        OverTimeError: the block took longer.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._works = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")

    def __enter__(self) -> None:
        if not self._works:
            return
        self._start = time.monotonic()
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._unraisable
        self._handler = signal.signal(signal.SIGALRM, _ring)
        self._timer = signal.setitimer(signal.ITIMER_REAL, self._seconds, _AGAIN_S)

    def __exit__(self, *given: object) -> None:
        if not self._works:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._handler)
        sys.unraisablehook = self._hook
        left, interval = self._timer
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(1e-3, left - (time.monotonic() - self._start)), interval)

    def _unraisable(self, unraisable: Any) -> None:
        """Say nothing of an alarm that rang in a destructor: it rings again, maybe while a hook says it."""
        if unraisable.exc_type is not OverTimeError:
            self._hook(unraisable)


def _ring(number: int, frame: FrameType | None) -> None:
    """Raise, but not in what sets and ends a limit: the timer would run on after the block, and end the process."""
    if frame is None or frame.f_globals is not globals():
        raise OverTimeError
