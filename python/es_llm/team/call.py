"""One collective call: the machine's steps, carried out with the program."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from es_llm._core import TeamRank, TeamStep
from es_llm.errors import CommunicationError, EsError, JournalTakenError, LeftOutError
from es_llm.team.failure import decode_failure, describe_failure, encode_failure, is_fatal
from es_llm.team.program import Program, Round, Table
from es_llm.team.wire import Wire

if TYPE_CHECKING:
    from es_llm.team.team import Team

logger = logging.getLogger(__name__)

_PATIENCE_S: Final = 0.25
"""A main thread that waits looks this often whether a signal came."""
_SETTLE_S: Final = 5.0
"""Ranks that led while this one slept say so within this time."""
_RESIGNED: Final = "resigned: "


class Call:
    """Runs `program` on this rank to the end of the call."""

    def __init__(self, team: Team, machine: TeamRank, wire: Wire, program: Program) -> None:
        self._team, self._machine, self._wire, self._program = team, machine, wire, program
        self.leading = False
        self._open: Round | None = None
        self._busy = False
        self._told: set[int] = set()
        self._failure: Exception | None = None
        self._taken: JournalTakenError | None = None
        self._waited = 0.0

    def run(self) -> bytes:
        """The call's result; see `Team.call`."""
        self._enter()
        while True:
            if self._team.halted():
                self._machine.halt(time.monotonic())
            step = self._machine.next(time.monotonic())
            self._wire.kick()
            if step.kind == "finished":
                return self._finished(step)
            if step.kind == "stopped":
                raise self._stopped(step)
            if self._failure is None:
                self._try(partial(self._watched, step))
                self._settle()
            elif step.kind == "wait":
                self._wire.wait(_PATIENCE_S)

    def begin(self, round_: Round, costs: list[float]) -> None:
        """See `Team.begin`."""
        self._open = round_
        self._machine.begin(time.monotonic(), round_.kind, round_.step, costs)

    def _enter(self) -> None:
        error = self._program.unable
        if error is None:
            self._machine.enter(time.monotonic())
            self._try(lambda: self._program.enter(self._team))
        else:
            self._failure = error
            self._machine.enter_unable(time.monotonic(), self._told_failure(error))

    def _watched(self, step: TeamStep) -> None:
        if step.kind == "wait" and (self._busy or not self.leading):
            self._do(step)
            return
        self._wire.watchdog.begin()
        start = time.monotonic()
        try:
            self._do(step)
        finally:
            self._wire.watchdog.end()
            self._tell_if_long(time.monotonic() - start)

    def _tell_if_long(self, seconds: float) -> None:
        limit = self._wire.watchdog.timeout_s
        if 0 < limit < seconds:
            logger.error(
                "rank %d of %d: a step took %.1f s, longer than `unit_timeout_s` %g, and the others may have gone on "
                "without it; unless it was stopped, raise `unit_timeout_s` or lower `prompts_per_unit`",
                self._team.rank, self._team.size, seconds, limit,
            )  # fmt: skip

    def _do(self, step: TeamStep) -> None:
        program, team = self._program, self._team
        match step.kind:
            case "wait":
                self._advance_or_wait()
            case "evaluate":
                assert step.unit is not None
                kind, number, unit = step.unit
                outcome = program.evaluate(Round(kind, number), unit)
                values, counts, figures = outcome
                self._machine.evaluated(time.monotonic(), list(values), list(counts), figures or None)
            case "apply":
                program.apply(team, *_words(step))
                self._busy = False
            case "complete":
                self._complete()
            case "lead":
                self.leading, self._busy, self._taken = True, True, None
                program.lead(team)
                self._busy = False
                for rank, why in self._machine.losses.items():
                    self._lost(rank, why)
            case "follow":
                self.leading, self._taken = False, None
                self._told &= self._machine.losses.keys()  # who is back may be lost again
                program.follow()
            case "superseded":
                self._busy = False
            case "lost":
                assert step.loss is not None
                self._lost(step.ranks[0], step.loss)
            case _:
                self._tell(step)

    def _tell(self, step: TeamStep) -> None:
        program = self._program
        match step.kind:
            case "agreed":
                assert step.iteration is not None
                assert step.digest is not None
                program.agreed(step.iteration, step.digest)
            case "heal":
                assert step.iteration is not None
                program.heal(self._team, step.iteration)
            case "diverged":
                assert step.iteration is not None
                program.diverged(step.ranks, step.iteration, hopeless=step.worse)
            case "welcome":
                program.welcome(step.payload or b"")
            case "note":
                program.note(step.payload or b"")
            case "back":
                self._told.discard(step.ranks[0])
                program.back(step.ranks[0])
            case "differs":
                program.differs(step.ranks)
            case "halt":
                program.halt()
            case "stranger":
                what = "records" if step.worse else "model, options or data"
                raise CommunicationError(
                    f"rank {step.ranks[0]} has other {what} than rank {self._team.rank}; expected the same on all ranks"
                )
            case kind:
                raise AssertionError(f"unknown step {kind!r}")

    def _advance_or_wait(self) -> None:
        if self.leading and not self._busy:
            self._busy = True
            self._program.advance(self._team)
        else:
            start = time.monotonic()
            self._wire.wait(_PATIENCE_S)
            self._waited += min(time.monotonic() - start, _PATIENCE_S)  # more if this process stood still

    def _settle(self) -> None:
        """The journal was taken over, and nobody told: this rank takes it back, or gives up."""
        if self._taken is None or self._waited < _SETTLE_S or self._failure is not None:
            return
        error, self._taken = self._taken, None
        if self._program.abandoned(self._team):
            self._machine.lead_anew()
        else:
            self._fail(error)

    def _complete(self) -> None:
        taken = self._machine.take_table()
        if taken is not None:
            assert self._open is not None
            self._program.complete(self._team, self._open, Table(*taken))
        self._busy = False

    def _lost(self, rank: int, why: str) -> None:
        if rank in self._told:
            return
        if not why.startswith(_RESIGNED):
            self._program.lost(rank, why)
            self._told.add(rank)
            return
        reason = why.removeprefix(_RESIGNED)
        text, fatal = describe_failure(reason)
        if fatal or not self._program.tolerant:
            raise decode_failure(reason)
        self._program.lost(rank, f"failed: {text}")

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except JournalTakenError as error:
            if self._team.size == 1:
                raise
            # Another rank led while this one slept, say: it will tell, and then this one leads anew or follows.
            if self.leading and self._taken is None:
                self._taken, self._waited = error, 0.0
        except Exception as error:
            self._fail(error)
        except BaseException as error:  # SystemExit, say: the others must not wait for this rank
            if self._team.size > 1:
                self._machine.resign(time.monotonic(), encode_failure(error))
            raise

    def _fail(self, error: Exception) -> None:
        """The leader's fatal errors stop all; with any other one this rank resigns, and waits for the end."""
        text, fatal = self._told_failure(error), is_fatal(error) or not self._program.tolerant
        if fatal and self.leading:
            self._machine.stop(text.encode())
            raise decode_failure(text) from error
        self._failure = error
        self._machine.resign(time.monotonic(), text)

    def _told_failure(self, error: Exception) -> str:
        """The error for the others; a lone rank raises it."""
        text = encode_failure(error)
        if self._team.size == 1:
            raise error
        if not is_fatal(error):
            told, _ = describe_failure(text)
            logger.error("rank %d of %d failed:\n%s", self._team.rank, self._team.size, told)
        return text

    def _finished(self, step: TeamStep) -> bytes:
        if self._failure is not None:
            raise LeftOutError(f"rank {self._team.rank} failed, and the others went on without it") from self._failure
        if step.payload is None or (not step.payload and self._team.rank in self._machine.losses):
            raise LeftOutError(f"rank {self._team.rank} was taken for lost, and the others went on without it")
        return step.payload

    def _stopped(self, step: TeamStep) -> Exception:
        if step.payload:
            return decode_failure(step.payload)
        assert self._failure is not None, "nobody is left, and this rank didn't fail"
        if isinstance(self._failure, EsError):
            self._failure.shared = True
        return self._failure


def _words(step: TeamStep) -> tuple[int, bytes]:
    assert step.iteration is not None
    assert step.payload is not None
    return step.iteration, step.payload
