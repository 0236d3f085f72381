"""The work of a collective call. The state machine decides which rank does what; a program carries it out."""

# Hooks are empty: a program overrides those that it needs.
# ruff: noqa: B027

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from es_llm._core import Loss, Table
from es_llm.team.team import Round, Team


class Outcome(NamedTuple):
    """The result of one unit: `values` are kept per unit, `counts` are summed over the units (modulo 2**64), `figures`
    are kept per unit; few units should have any."""

    values: Sequence[float]
    counts: Sequence[int]
    figures: bytes = b""


class Program(ABC):
    """One collective call, as one rank carries it out. The main thread calls the methods, one at a time.

    An `EsError` that a method raises ends the call on all ranks. Any other exception ends this rank's part in it and,
    unless `tolerant`, the call as well.
    """

    tolerant: bool = True
    """Whether the other ranks continue after an exception that is no `EsError`."""

    @abstractmethod
    def advance(self, team: Team) -> None:
        """The leader has no open round: begin the next one, or finish the call."""

    def enter(self, team: Team) -> None:
        """The call begins on this rank."""

    def lead(self, team: Team) -> None:
        """This rank is the leader from now on, and the only one that writes; call `team.restore` and `team.welcome`
        here."""

    def abandoned(self, team: Team) -> bool:
        """Whether the rank that took over this leader's journal has exited or follows this leader, which may then
        reclaim it."""
        return False

    def follow(self) -> None:
        """This rank is no longer the leader."""

    def welcome(self, payload: bytes) -> None:
        """The leader's message to every rank that joins."""

    def note(self, payload: bytes) -> None:
        """The leader's note for the journals of all ranks."""

    def lost(self, rank: int, loss: Loss) -> None:
        """The leader learns that a rank was lost."""

    def back(self, rank: int) -> None:
        """The leader learns that a silent rank is back."""

    def halt(self) -> None:
        """The leader learns that a rank was asked to end soon."""


class RoundProgram(Program):
    """A program that begins rounds of units."""

    @abstractmethod
    def evaluate(self, round_: Round, unit: int) -> Outcome:
        """The result of one unit; a function of the round and the unit alone."""

    @abstractmethod
    def complete(self, team: Team, round_: Round, table: Table) -> None:
        """The leader has the results of all units of the round that it began."""

    def differs(self, ranks: tuple[int, int]) -> None:
        """The leader learns that two ranks computed different results for one unit; the first rank's counts."""


class RecordProgram(RoundProgram):
    """A program that publishes records, which all ranks apply to their weights."""

    @abstractmethod
    def apply(self, team: Team, iteration: int, payload: bytes) -> None:
        """Apply a record: write it to the journal unless it is there, update the weights, and report the digest if one
        is due."""

    @abstractmethod
    def rebuild(self, team: Team, iteration: int) -> None:
        """This rank's weights are wrong: rebuild them from the base and the records. Then report the digest of the last
        iteration at which ranks compare digests: this one, or one that was applied since."""

    def agreed(self, iteration: int, digest: int) -> None:
        """The weights of all ranks had this digest after the iteration."""

    def diverged(self, ranks: Sequence[int], iteration: int, *, again: bool) -> None:
        """The leader learns which ranks' weights differed; `again`: they did after a rebuild too."""
