"""One collective call: the machine's instructions, carried out with a program."""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, TypeVar, final

from es_llm import errors
from es_llm._core import Instruction, Loss
from es_llm.errors import CommunicationError, EsError, JournalTakenError, LeftOutError, OutOfMemoryError
from es_llm.team.program import Program, RecordProgram, RoundProgram
from es_llm.team.team import Round, RoundKind, Team

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_PATIENCE_S: Final = 0.25
"""A waiting main thread checks for signals at this interval."""
_SETTLE_S: Final = 5.0
"""A rank that led while this one was stopped reports it within this time."""


def run_program(team: Team, program: Program) -> bytes:
    """Collective: carry out `program` to its end; returns the result that its leader gave to `Team.finish`.

    Raises:
        EsError: the error that a rank's program raised, on all ranks, with `shared` set.
        CommunicationError: a rank failed and the program isn't tolerant, or the ranks don't fit together.
        LeftOutError: this rank failed or was too late, and the others ended the call without it.
    """
    return _Call(team, program).run()


def run_on_leader(team: Team, work: Callable[[], None]) -> None:
    """Collective: the leader alone does `work`; its error is raised on all ranks, as by `run_program`."""
    _Call(team, _LeaderWork(work)).run()


def report_failure(team: Team, error: Exception) -> None:
    """Take part in the call that the other ranks make only to report that this rank can't; as `run_program`, it raises
    the error on all ranks."""
    _Call(team, _LeaderWork(lambda: None)).run(unable=error)


def together(team: Team, work: Callable[[], Result]) -> Result:
    """The result of `work()`, which every rank calls before a collective call. If it fails on this rank, this rank
    raises immediately, and the other ranks raise the same error in their next collective call."""
    try:
        return work()
    except Exception as error:
        report_failure(team, error)
        raise


@final
class _LeaderWork(Program):
    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work

    def advance(self, team: Team) -> None:
        self._work()
        team.finish(b"{}")


class _Failure(NamedTuple):
    """What a rank that can't continue reports to the others. `trace` is empty for an error that concerns all ranks."""

    name: str
    text: str
    trace: str

    @classmethod
    def of(cls, error: BaseException) -> _Failure:
        shared = isinstance(error, EsError) and not isinstance(error, LeftOutError | OutOfMemoryError)
        trace = "" if shared else "".join(traceback.format_exception(error))
        return cls(type(error).__name__, str(error), trace)

    @classmethod
    def decode(cls, text: str | bytes) -> _Failure:
        return cls(*json.loads(text))

    def encode(self) -> str:
        return json.dumps(self)

    def __str__(self) -> str:
        return self.trace.rstrip() or f"{self.name}: {self.text}"

    def error(self) -> EsError:
        """An `EsError` as it was, any other exception as a `CommunicationError`; with `shared` set."""
        error: EsError
        if self.trace:
            error = CommunicationError(f"a rank failed:\n{self.trace}")
        else:
            error = getattr(errors, self.name, EsError)(self.text)
        error.shared = True
        return error


class _Call:
    def __init__(self, team: Team, program: Program) -> None:
        self._team, self._machine, self._program = team, team.machine, program
        self._busy = False
        """Whether the leader has begun a round, or is about to."""
        self._reported: set[int] = set()
        """Lost ranks that the program knows of."""
        self._failure: Exception | None = None
        self._taken: JournalTakenError | None = None
        self._waited_s = 0.0
        """Time since `_taken` was raised."""

    def run(self, unable: Exception | None = None) -> bytes:
        """The result of the call. `unable`: why this rank can't take part."""
        self._team.start()
        try:
            self._enter(unable)
            while True:
                if self._team.halting:
                    self._machine.halt(time.monotonic())
                instruction = self._machine.next(time.monotonic())
                self._team.wire.kick()
                match instruction:
                    case Instruction.Finished(payload):
                        return self._finished(payload)
                    case Instruction.Stopped(payload):
                        raise self._stopped(payload)
                    case Instruction.Wait() if self._failure is not None:
                        self._team.wire.wait(_PATIENCE_S)
                    case _ if self._failure is None:
                        self._try(partial(self._carry_out, instruction))
                        self._settle()
        finally:
            self._team.stop()

    def _enter(self, unable: Exception | None) -> None:
        if unable is None:
            self._machine.enter(time.monotonic())
            self._try(lambda: self._program.enter(self._team))
        else:
            self._failure = unable
            self._machine.enter(time.monotonic(), self._logged(unable).encode())

    def _carry_out(self, instruction: Instruction) -> None:
        """Waiting alone isn't watched."""
        if isinstance(instruction, Instruction.Wait) and (self._busy or not self._team.leads):
            start = time.monotonic()
            self._team.wire.wait(_PATIENCE_S)
            self._waited_s += min(time.monotonic() - start, _PATIENCE_S)  # more if this process stood still
            return
        with self._team.watchdog.step(f"rank {self._team.rank} of {self._team.size}"):
            self._do(instruction)

    def _do(self, instruction: Instruction) -> None:  # noqa: PLR0912 - one arm per instruction
        program, team = self._program, self._team
        match instruction:
            case Instruction.Wait():
                self._busy = True
                program.advance(team)
            case Instruction.Evaluate(kind, iteration, unit):
                values, counts, figures = self._rounds.evaluate(Round(RoundKind(kind), iteration), unit)
                self._machine.evaluated(time.monotonic(), values, counts, figures)
            case Instruction.Complete(table):
                assert team.round is not None
                self._rounds.complete(team, team.round, table)
                self._busy = False
            case Instruction.Differs(first, second):
                self._rounds.differs((first, second))
            case Instruction.Apply(iteration, payload):
                self._records.apply(team, iteration, payload)
                self._busy = False
            case Instruction.Agreed(iteration, digest):
                self._records.agreed(iteration, digest)
            case Instruction.Rebuild(iteration):
                self._records.rebuild(team, iteration)
            case Instruction.Diverged(ranks, iteration, again):
                self._records.diverged(ranks, iteration, again=again)
            case Instruction.Welcome(payload):
                program.welcome(payload)
            case Instruction.Note(payload):
                program.note(payload)
            case Instruction.Lead():
                self._lead()
            case Instruction.Follow():
                team.leads, self._taken = False, None
                self._reported &= self._machine.losses.keys()  # a rank that is back may be lost again
                program.follow()
            case Instruction.Superseded():
                self._busy = False
            case Instruction.Lost(rank, loss):
                self._lost(rank, loss)
            case Instruction.Back(rank):
                self._reported.discard(rank)
                program.back(rank)
            case Instruction.Halt():
                program.halt()
            case Instruction.Stranger(rank, records):
                what = "records" if records else "model, options or data"
                raise CommunicationError(
                    f"rank {rank} has other {what} than rank {team.rank}; expected the same on all ranks"
                )
            case _:
                raise AssertionError(f"unknown instruction {instruction!r}")

    @property
    def _rounds(self) -> RoundProgram:
        assert isinstance(self._program, RoundProgram), "only such a program begins rounds"
        return self._program

    @property
    def _records(self) -> RecordProgram:
        assert isinstance(self._program, RecordProgram), "only such a program publishes records"
        return self._program

    def _lead(self) -> None:
        self._team.leads, self._busy, self._taken = True, True, None
        self._program.lead(self._team)
        self._busy = False
        for rank, loss in self._machine.losses.items():
            self._lost(rank, loss)

    def _lost(self, rank: int, loss: Loss) -> None:
        if rank in self._reported:
            return
        if isinstance(loss, Loss.Failed):
            failure = _Failure.decode(loss.reason)
            if not failure.trace or not self._program.tolerant:
                raise failure.error()
            loss = Loss.Failed(str(failure))
        self._program.lost(rank, loss)
        self._reported.add(rank)

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except JournalTakenError as error:
            if self._team.size == 1:
                raise
            # Another rank may have led while this one was stopped: it will report, and this one leads again or follows.
            if self._team.leads and self._taken is None:
                self._taken, self._waited_s = error, 0.0
        except Exception as error:
            self._fail(error)
        except BaseException as error:  # such as SystemExit: the others must not wait for this rank
            if self._team.size > 1:
                self._machine.resign(time.monotonic(), _Failure.of(error).encode())
            raise

    def _settle(self) -> None:
        """If the journal was taken over and no rank reports that it leads: reclaim the journal, or fail."""
        if self._taken is None or self._waited_s < _SETTLE_S or self._failure is not None:
            return
        error, self._taken = self._taken, None
        if self._program.abandoned(self._team):
            self._machine.take_over_again()
        else:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """A fatal error of the leader ends the call on all ranks; after any other one this rank resigns and waits for
        the end."""
        failure = self._logged(error)
        if self._team.leads and (not failure.trace or not self._program.tolerant):
            self._machine.finish(time.monotonic(), failure.encode().encode(), failed=True)
            raise failure.error() from error
        self._failure = error
        self._machine.resign(time.monotonic(), failure.encode())

    def _logged(self, error: Exception) -> _Failure:
        """The failure to report to the others, logged unless it concerns all ranks. A lone rank raises the error."""
        if self._team.size == 1:
            raise error
        failure = _Failure.of(error)
        if failure.trace:
            logger.error("rank %d of %d failed:\n%s", self._team.rank, self._team.size, failure)
        return failure

    def _finished(self, payload: bytes) -> bytes:
        if self._failure is not None:
            raise LeftOutError(f"rank {self._team.rank} failed; the others continued without it") from self._failure
        if not payload and self._team.rank in self._machine.losses:
            raise LeftOutError(f"rank {self._team.rank} was counted as lost; the others continued without it")
        return payload

    def _stopped(self, payload: bytes) -> Exception:
        if payload:
            return _Failure.decode(payload).error()
        assert self._failure is not None, "no rank is left, and this one didn't fail"
        if isinstance(self._failure, EsError):
            self._failure.shared = True
        return self._failure
