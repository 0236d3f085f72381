"""SIGTERM, SIGUSR1 and Ctrl-C: the first one ends the training after the current record, the second one at once.

Open MPI's mpirun passes SIGUSR1 on to its ranks and leaves them their time; after SIGTERM or Ctrl-C it kills them.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from es_llm.team import Team

INTERRUPTED: Final = 75
"""Exit code of a run that a signal ended and that can be resumed: EX_TEMPFAIL of sysexits.h, "try again later"."""
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


@contextmanager
def stop_signals(team: Team) -> Iterator[None]:
    """Let `team.halted` tell of a signal while the block runs."""
    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if came:
            signal.signal(number, signal.SIG_DFL)  # to die of it: MPI notices that at once, an exit code it may not
            os.kill(os.getpid(), number)
            return
        came.append(number)
        if team.speaks:
            told = f"es-llm: {signal.Signals(number).name}: ending after this iteration; once more ends at once\n"
            with contextlib.suppress(OSError):  # not through `sys.stderr`, which the signal may have met in the middle
                os.write(2, told.encode())

    before = {number: signal.signal(number, handle) for number in _SIGNALS}
    team.halted = lambda: bool(came)
    try:
        yield
    finally:
        team.halted = lambda: False
        for number, handler in before.items():
            signal.signal(number, handler)
