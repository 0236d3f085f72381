"""SIGTERM, SIGUSR1 and Ctrl-C: the first one ends the training after the current record, the second one at once. While
the run is only being prepared, the first one ends it there.

Open MPI's mpirun passes SIGUSR1 on to its ranks and leaves them their time; after SIGTERM or Ctrl-C it kills them.
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
from es_llm.rewards.processes import has_standard_error
from es_llm.team import Team

Result = TypeVar("Result")

INTERRUPTED: Final = 75
"""Exit code of a run that a signal ended and that can be resumed: EX_TEMPFAIL of sysexits.h, "try again later"."""
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopSignals:
    """Remembers signals from `listen` on: also one that comes while ranks meet and libraries load ends in a run that is
    ready to be resumed."""

    def __init__(self) -> None:
        self._came: list[int] = []
        self._before: dict[int, Any] = {}
        self._team: Team | None = None
        self._prepared = self._interrupts = False

    def listen(self) -> None:
        """Take signals from now on; only a process's main thread can."""
        if not self._before and threading.current_thread() is threading.main_thread():
            self._came.clear()
            self._prepared = False
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}

    def preparing(self, work: Callable[[], Result]) -> Result:
        """`work()`, which a signal interrupts wherever it is, since nothing of it need be kept: in an import that
        hangs, say. One that came before counts too.

        Raises:
            StoppedError: a signal came.
        """
        try:
            try:
                self._interrupts = True
                if self._came:
                    raise KeyboardInterrupt
                return work()
            finally:
                self._interrupts, self._prepared = False, True
        except KeyboardInterrupt:
            if not self._came:
                raise
            raise StoppedError("a signal ended the run before its first iteration") from None

    @contextmanager
    def tell(self, team: Team) -> Iterator[None]:
        """Call `team.halt` at the first signal, also at one that came before, while the block runs; then restore the
        signal handlers."""
        self.listen()
        self._team = team
        if self._came:
            team.halt()
        try:
            yield
        finally:
            self._team = None
            for number, handler in self._before.items():
                signal.signal(number, handler)
            self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._came:
            signal.signal(number, signal.SIG_DFL)  # to die of it: MPI notices that at once, an exit code it may not
            os.kill(os.getpid(), number)
            return
        self._came.append(number)
        if self._team is not None:
            self._team.halt()
        if has_standard_error() and (self._team is None or self._team.speaks):
            when = "after this iteration" if self._prepared else "before the first iteration"
            told = f"es-llm: {signal.Signals(number).name}: ending {when}; once more ends at once\n"
            with contextlib.suppress(OSError):  # not through `sys.stderr`, which the signal may have met in the middle
                os.write(2, told.encode())
        if self._interrupts:
            raise KeyboardInterrupt
