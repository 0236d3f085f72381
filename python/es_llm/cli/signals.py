"""SIGTERM, SIGUSR1 and Ctrl-C: the first signal ends the training after the current iteration, the second one at once.
During the preparation of the run the first signal already ends it at once.

Open MPI's mpirun passes SIGUSR1 on to its ranks and waits for them; one second after SIGTERM or Ctrl-C it kills them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, TypeVar

from es_llm.errors import StoppedError
from es_llm.rewards.workers.system import has_standard_error
from es_llm.team import Team

Result = TypeVar("Result")

INTERRUPTED: Final = 75
"""Exit code of a run that a signal ended and that can be resumed: EX_TEMPFAIL of sysexits.h, "try again later"."""
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignals:
    """Handles signals from `listen` on. A signal during the start, while libraries load, also ends the run in a state
    that can be resumed."""

    def __init__(self) -> None:
        self._received: list[int] = []
        self._old_handlers: dict[int, Any] = {}
        self._team: Team | None = None
        self._prepared = self._interrupts = False

    def listen(self) -> None:
        """Handle signals from now on. Does nothing outside the main thread, where Python forbids it."""
        if not self._old_handlers and threading.current_thread() is threading.main_thread():
            self._received.clear()
            self._prepared = False
            self._old_handlers = {number: signal.signal(number, self._handle) for number in _SIGNALS}

    def preparing(self, work: Callable[[], Result]) -> Result:
        """The result of `work()`. A signal interrupts it anywhere, even in an import that hangs, since nothing of the
        work is lost. A signal from before the call interrupts it too.

        Raises:
            StoppedError: there was a signal.
        """
        try:
            try:
                self._interrupts = True
                if self._received:
                    raise KeyboardInterrupt
                return work()
            finally:
                self._interrupts, self._prepared = False, True
        except KeyboardInterrupt:
            if not self._received:
                raise
            raise StoppedError("a signal ended the run before its first iteration") from None

    @contextmanager
    def tell(self, team: Team) -> Iterator[None]:
        """Call `team.halt` at the first signal, also at one that came before, while the block runs; then restore the
        signal handlers."""
        self.listen()
        self._team = team
        if self._received:
            team.halt()
        try:
            yield
        finally:
            self._team = None
            for number, handler in self._old_handlers.items():
                signal.signal(number, handler)
            self._old_handlers = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            signal.signal(number, signal.SIG_DFL)  # MPI notices death by a signal at once, but may miss an exit code
            os.kill(os.getpid(), number)
            return
        self._received.append(number)
        if self._team is not None:
            self._team.halt()
        if has_standard_error() and (self._team is None or self._team.speaks):
            when = "after this iteration" if self._prepared else "before the first iteration"
            message = f"es-llm: {signal.Signals(number).name}: ending {when}; a second signal ends at once\n"
            with contextlib.suppress(OSError):  # `sys.stderr` may be in the middle of a write
                os.write(2, message.encode())
        if self._interrupts:
            raise KeyboardInterrupt
