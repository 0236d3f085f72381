"""What a collective call works on. The team decides which rank does what; a program knows what it means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from es_llm.team.team import Team


class Round(NamedTuple):
    """Units of one kind of work, done with the weights after `step` records. Kind 0 is an iteration."""

    kind: int
    step: int


class Outcome(NamedTuple):
    """What one unit gave: `values` are kept by unit, `counts` are summed up over the units (modulo 2**64), `figures`
    are kept by unit, and few units should have any."""

    values: Sequence[float]
    counts: Sequence[int]
    figures: bytes = b""


class Table(NamedTuple):
    """What all units of a round gave: `values` by unit, the sums of the counts, and (unit, figures) by unit."""

    values: list[list[float]]
    counts: list[int]
    figures: list[tuple[int, bytes]]


class Program:
    """One collective call, as one rank runs it. Methods are called by the main thread, one at a time.

    What a method raises ends the call on all ranks if it is an `EsError`; any other exception makes this rank resign
    and, unless `tolerant`, ends the call as well.
    """

    tolerant: bool = True
    """Whether the others go on when a rank raises something that is no `EsError`."""

    unable: Exception | None = None
    """Why this rank can't take part, from the beginning; the others are told."""

    def enter(self, team: Team) -> None:
        """The call begins on this rank."""

    def lead(self, team: Team) -> None:
        """This rank leads from now on, and nobody else writes; `team.restore` and `team.welcome` belong here."""

    def abandoned(self, team: Team) -> bool:
        """Whether who took over what this leader wrote is gone or follows it: then it is this leader's again."""
        return False

    def follow(self) -> None:
        """This rank doesn't lead any more."""

    def advance(self, team: Team) -> None:
        """The leader has nothing open: begin the next round, or finish the call."""
        raise NotImplementedError

    def evaluate(self, round_: Round, unit: int) -> Outcome:
        """The result of one unit; a function of the round and the unit alone."""
        raise NotImplementedError

    def complete(self, team: Team, round_: Round, table: Table) -> None:
        """The leader has the results of all units of the round that it began."""
        raise NotImplementedError

    def apply(self, team: Team, iteration: int, payload: bytes) -> None:
        """A record: journal it unless that is done, move the weights, and say the digest if one is due."""
        raise NotImplementedError

    def agreed(self, iteration: int, digest: int) -> None:
        """All ranks' weights had this digest after the iteration."""

    def heal(self, team: Team, iteration: int) -> None:
        """This rank's weights are wrong: make them anew from the base and the records. Say their digest after the last
        iteration after which all ranks say it: this one, or one that was applied since."""
        raise NotImplementedError

    def diverged(self, ranks: Sequence[int], iteration: int, *, hopeless: bool) -> None:
        """The leader learns whose weights differed; `hopeless`: also after they were made anew."""

    def welcome(self, payload: bytes) -> None:
        """What the leader says to those who come."""

    def note(self, payload: bytes) -> None:
        """What the leader notes for all."""

    def lost(self, rank: int, why: str) -> None:
        """The leader learns that a rank is gone: "dead", "silent", or "resigned: " and its words."""

    def back(self, rank: int) -> None:
        """The leader learns that a silent rank is back."""

    def differs(self, ranks: Sequence[int]) -> None:
        """The leader learns that two ranks gave different results for one unit; the first one's counted."""

    def halt(self) -> None:
        """The leader learns that a rank was asked to end soon."""
