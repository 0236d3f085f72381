"""A limit of time for Python code in the main thread, where the system has SIGALRM; elsewhere there is none.

For code that the worker's limit would end too, but as a failure of the whole worker. It doesn't interrupt C code.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final


class OverTimeError(BaseException):
    """The time is over. No `Exception`: libraries that catch those let it pass."""


_AGAIN_S: Final = 0.5
"""It is raised again so often: where it is raised in a destructor, nobody sees it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `OverTimeError` in the block after `seconds`. A timer that runs already runs on afterwards.

    Raises:
        OverTimeError: the block took longer.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise OverTimeError

    start = time.monotonic()
    handler = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(1e-3, left - (time.monotonic() - start)), interval)
