"""Moves messages between the machine and the mailbox, in one thread per rank that also watches the clock."""

from __future__ import annotations

import threading
import time
from typing import Final

from es_llm._core import TeamRank
from es_llm.comm.mailbox import Mailbox
from es_llm.team.watchdog import Watchdog

_QUICK_S: Final = 0.0005
_SLOW_S: Final = 0.01
"""Pause between two looks into the mailbox: the shorter one after a message, then doubled up to the longer one."""
_IDLE_S: Final = 0.002
"""The longest pause while the main thread waits for a message."""
_TICK_S: Final = 0.1


class Wire:
    """Moves messages during a call. `wait` and `kick` are for the main thread.

    Where MPI doesn't let two threads call it (`Mailbox.concurrent`) there is no thread: the main thread moves messages
    between its steps, so long units delay the messages of other ranks.
    """

    def __init__(self, machine: TeamRank, mailbox: Mailbox) -> None:
        self._machine = machine
        self._mailbox = mailbox
        self._news = threading.Event()
        self._work = threading.Event()
        self._stop = False
        self._waiting = False
        self._ticked = 0.0
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self, watchdog: Watchdog) -> None:
        """Begin to move messages, and to check the watchdog."""
        self._stop, self._error, self._watchdog = False, None, watchdog
        if self._mailbox.size > 1 and self._mailbox.concurrent:
            self._thread = threading.Thread(target=self._loop, name="es_llm wire", daemon=True)
            self._thread.start()

    def stop(self, flush_s: float) -> None:
        """Stop moving messages; those that were sent get up to `flush_s` seconds to leave."""
        self._stop = True
        self._work.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is None:
            self._send()
            self._mailbox.flush(flush_s)

    def kick(self) -> None:
        """Send the messages that the state machine has queued."""
        if self._error is not None:
            raise self._error
        if self._thread is not None:
            self._work.set()
        else:
            self._pump()

    def wait(self, timeout_s: float) -> None:
        """Return when there is news, or after the timeout."""
        if self._thread is None:
            self._pump()
            time.sleep(min(timeout_s, _IDLE_S))
            return
        self._waiting = True
        self._work.set()
        self._news.wait(timeout_s)
        self._waiting = False
        self._news.clear()

    def _loop(self) -> None:
        pause = _QUICK_S
        try:
            while not self._stop:
                if self._pump():
                    pause = _QUICK_S
                    self._news.set()
                elif not self._machine.expects:
                    pause = min(2 * pause, _IDLE_S if self._waiting else _SLOW_S)
                self._work.wait(pause)
                self._work.clear()
        except BaseException as error:
            self._error = error
            self._news.set()

    def _pump(self) -> bool:
        """Move all messages that can be moved now; True if there were any."""
        machine, now = self._machine, time.monotonic()
        lost, received = self._mailbox.lost(), self._mailbox.receive()
        for rank in lost:
            machine.lost(now, rank)
        for sender, payload in received:
            machine.receive(now, sender, payload)
        if now - self._ticked > _TICK_S:
            self._ticked = now
            over = machine.tick(now)
            self._watchdog.look()
            if over:
                self._watchdog.hurry()
            elif len(machine.losses.keys() - {self._mailbox.rank}) == self._mailbox.size - 1:
                self._watchdog.pardon()
        return self._send() or bool(lost or received)

    def _send(self) -> bool:
        sends = self._machine.take_sends()
        for to, payload in sends:
            self._mailbox.send(to, payload)
        return bool(sends)
