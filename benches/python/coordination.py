"""Measures the cost of coordination: ranks under MPI, records in a journal, and units that only wait.

    mpirun -n 16 python benches/python/coordination.py            units of 100 ms; equal ranks, then unequal ones
    mpirun -n 16 python benches/python/coordination.py --unit_ms 20

A unit is one member. `ideal` is the shortest time in which ranks that never wait could evaluate all units. The time
above it is coordination: handing out units, reporting results, the journal with its fsync, publishing records, and
ranks that wait for the last unit. With more ranks than cores a unit's wait ends late; `late` is the mean delay.
Bytes are the payloads of all messages of a rank, as in the metrics `bytes_sent` and `bytes_received`.

The score of every unit, the order of the records and the result are checked on all ranks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from mpi4py import MPI

from es_llm._core import ASSIGNMENTS, JournalWriter, Population
from es_llm.comm import select_mailbox
from es_llm.team import Outcome, RecordProgram, Round, RoundKind, Table, Team, run_program


@dataclass
class Setting:
    """A population, and the speeds of the ranks: a unit takes `unit_s * slowness(rank, iteration)` seconds."""

    name: str
    assignment: str
    members: int
    iterations: int
    unit_s: float
    slowness: Callable[[int, int], float]


@dataclass
class Times:
    """On the leader: seconds of each iteration, and of its journal. On each rank: seconds of delay, and units."""

    iterations: list[float] = field(default_factory=list)
    journal: list[float] = field(default_factory=list)
    late: float = 0.0
    units: int = 0


class Waiting(RecordProgram):
    """A training run whose rollouts only wait."""

    def __init__(self, setting: Setting, journal: Path, rank: int) -> None:
        self._setting, self._journal, self._rank = setting, journal, rank
        self._population = Population(run_seed=1, population_size=setting.members)
        self._writer: JournalWriter | None = None
        self._start = 0.0
        self.times = Times()

    def score(self, unit: int) -> float:
        """The score of a unit of this iteration; no other unit has this score."""
        return self._population.iteration + unit / 1024

    def lead(self, team: Team) -> None:
        """Create the leader's journal, as in training."""
        self._writer = JournalWriter.create(str(self._journal), "{}")

    def advance(self, team: Team) -> None:
        """Begin the next iteration, or finish."""
        now, step = time.perf_counter(), self._population.iteration
        if step > 0:
            self.times.iterations.append(now - self._start)
        self._start = now
        if step == self._setting.iterations:
            team.finish(b"done")
        else:
            team.begin(Round(RoundKind.ITERATION, step), [1.0] * self._setting.members)

    def evaluate(self, round_: Round, unit: int) -> Outcome:
        """Wait for the time of the unit."""
        seconds = self._setting.unit_s * self._setting.slowness(self._rank, round_.iteration)
        start = time.perf_counter()
        time.sleep(seconds)
        self.times.late += time.perf_counter() - start - seconds
        self.times.units += 1
        return Outcome([self.score(unit)], [1])

    def complete(self, team: Team, round_: Round, table: Table) -> None:
        """Journal and publish the record."""
        fitness = [values[0] for values in table.values]
        assert fitness == [self.score(unit) for unit in range(self._setting.members)], "each unit once, in order"
        assert table.counts == [self._setting.members]
        record = self._population.tell(fitness, sigma=1e-3, learning_rate=5e-4)
        assert self._writer is not None
        start = time.perf_counter()
        self._writer.append_record(record)
        self.times.journal.append(time.perf_counter() - start)
        team.publish(record.iteration, self._population.pack(record))

    def apply(self, team: Team, iteration: int, payload: bytes) -> None:
        """Apply a record."""
        record = self._population.unpack(payload)
        assert record.iteration == iteration == self._population.iteration
        self._population.apply(record)
        team.digest(iteration, iteration)

    def rebuild(self, team: Team, iteration: int) -> None:
        """There are no weights: report the digest again."""
        team.digest(iteration, iteration)


def ideal_seconds(speeds: list[float], units: int) -> float:
    """The smallest t with sum(floor(t * speed)) >= units."""
    moments = sorted(k / speed for speed in speeds for k in range(1, units + 1))
    return next(t for t in moments if sum(int(t * speed + 1e-9) for speed in speeds) >= units)


def measure(setting: Setting, team: Team) -> None:
    """Run a setting and print its line."""
    world = MPI.COMM_WORLD
    with tempfile.TemporaryDirectory() as directory:
        program = Waiting(setting, Path(directory) / "journal.es", team.rank)
        team.renew(1, assignment=setting.assignment)
        world.Barrier()
        before, cpu = team.traffic, time.process_time()
        assert run_program(team, program) == b"done"
        cpu = time.process_time() - cpu
    sent, received = (after - start for after, start in zip(team.traffic, before, strict=True))
    figures = world.gather((sent, received, program.times.late, program.times.units, cpu))
    if team.rank == 0:
        report(setting, program.times, figures or [])


def report(setting: Setting, times: Times, of_ranks: list[tuple[int, int, float, int, float]]) -> None:
    """Print one line of the table, without the first iteration, in which the speeds aren't known yet.

    Args:
        of_ranks: bytes sent, bytes received, seconds of delay, units and CPU seconds of each rank.
    """
    ranks, rounds = len(of_ranks), times.iterations[1:]
    ideals = [
        ideal_seconds([1 / (setting.unit_s * setting.slowness(rank, step)) for rank in range(ranks)], setting.members)
        for step in range(1, setting.iterations)
    ]
    ratios = [took / ideal for took, ideal in zip(rounds, ideals, strict=True)]
    late = sum(row[2] for row in of_ranks) / sum(row[3] for row in of_ranks)
    traffic = [(sent + received) / setting.iterations for sent, received, *_ in of_ranks]
    total = sum(row[0] for row in of_ranks) / setting.iterations
    figures = {
        "ranks": ranks, "members": setting.members,
        "ideal_s": statistics.mean(ideals), "took_s": statistics.mean(rounds),
        "ratio": statistics.median(ratios), "worst_ratio": max(ratios),
        "journal_ms": 1e3 * statistics.median(times.journal), "late_ms": 1e3 * late,
        "busy": sum(row[4] for row in of_ranks) / ranks / sum(times.iterations),
        "leader_bytes": traffic[0], "worker_bytes": max(traffic[1:]),
        "all_bytes_sent": total, "bound_bytes": 16 * setting.members,
    }  # fmt: skip
    times_ms = f"{figures['journal_ms']:>7.1f} ms{figures['late_ms']:>6.2f} ms"
    sizes = f"{figures['leader_bytes']:>9.0f}{figures['worker_bytes']:>8.0f}{figures['all_bytes_sent']:>9.0f}"
    print(
        f"{setting.name:<34}{setting.assignment:<9}{figures['ideal_s']:>8.3f} s{figures['took_s']:>8.3f} s"
        f"{figures['ratio']:>9.4f}{figures['worst_ratio']:>9.4f}{times_ms}{sizes}",
        flush=True,
    )
    print(f"    {json.dumps(figures)}", flush=True)


def settings(options: argparse.Namespace, ranks: int) -> list[Setting]:
    """Equal speeds; then half of the ranks four times as slow: always the same half, or the halves in turn."""

    def equal(rank: int, step: int) -> float:
        return 1.0

    def steady(rank: int, step: int) -> float:
        return 4.0 if rank % 2 else 1.0

    def by_turns(rank: int, step: int) -> float:
        return 4.0 if (rank + step) % 2 else 1.0

    rows = [("equal speeds", equal), ("half 4 times as slow", steady), ("... another half each iteration", by_turns)]
    members = options.units_per_rank * ranks
    unit_s = options.unit_ms / 1e3
    return [
        Setting(name, assignment, members, options.iterations, unit_s, slowness)
        for name, slowness in rows
        for assignment in options.assignments
    ]


def main() -> None:
    """Measure each setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unit_ms", type=float, default=100.0, help="milliseconds of a unit at speed 1")
    parser.add_argument("--units_per_rank", type=int, default=16, help="members / ranks")
    parser.add_argument("--iterations", type=int, default=6)
    parser.add_argument("--assignments", nargs="+", choices=ASSIGNMENTS, default=list(ASSIGNMENTS))
    options = parser.parse_args()
    for name in ("unit_ms", "units_per_rank"):
        if getattr(options, name) <= 0:
            parser.error(f"argument --{name}: expected > 0, got {getattr(options, name)}")
    if options.iterations < 2:
        parser.error(f"argument --iterations: expected 2 or more, got {options.iterations}")
    team = Team(select_mailbox())
    if team.rank == 0:
        import torch
        from measure import machine

        print(f"{machine(torch.device('cpu'))}\n{team.size} ranks, {options.units_per_rank} units per rank\n")
        columns = f"{'ideal':>10}{'took':>10}{'ratio':>9}{'worst':>9}{'journal':>10}{'late':>9}"
        print(f"{'':<34}{'dealing':<9}{columns}{'leader':>9}{'worker':>8}{'all sent':>9}  bytes per iteration")
    for setting in settings(options, team.size):
        measure(setting, team)
    team.close()


if __name__ == "__main__":
    main()
