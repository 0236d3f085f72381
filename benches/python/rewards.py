"""Rewards in killable workers: how near to the work itself, and how much of it hides behind generation.

    python benches/python/rewards.py      6,000 rewards of 5 ms; then an iteration whose generation takes as long

Grading waits 5 ms per completion (as a judge or a compiler would), and generation is a wait as well, so that two cores
are enough for both. All scores are checked.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass

import torch
from measure import machine

from es_llm.rewards.batch import Batch
from es_llm.rewards.reward_set import PendingRewards, RewardSet
from es_llm.rewards.workers.protocol import WorkerLimits
from es_llm.units.run_state import Prefetcher

UNIT = 60


@dataclass
class Setting:
    """How many rewards of how long, over how many workers."""

    rewards: int
    cost_s: float
    workers: int


def judge(completions, number, cost_s, **columns):
    """Waits for each completion; its reward is its row's number."""
    time.sleep(sum(cost_s))
    return [float(place) for place in number]


def batch(unit: int, setting: Setting) -> Batch:
    rows = [{"prompt": "p", "number": unit * UNIT + place, "cost_s": setting.cost_s} for place in range(UNIT)]
    return Batch.of(rows, ["x" * 200] * UNIT, [[1] * 50] * UNIT)


def check(totals: list[float | None], unit: int) -> None:
    assert totals == [float(unit * UNIT + place) for place in range(UNIT)], unit


def all_at_once(rewards: RewardSet, setting: Setting) -> float:
    """Seconds for all rewards, when they are known from the start."""
    start = time.perf_counter()
    pending = [rewards.submit(batch(unit, setting)) for unit in range(setting.rewards // UNIT)]
    for unit, each in enumerate(pending):
        check(each.result().rewards, unit)
    return time.perf_counter() - start


def beside_generation(rewards: RewardSet, setting: Setting, generate_s: float, *, ahead: bool) -> float:
    """Seconds of an iteration whose units are generated one after the other, `generate_s` each, and graded."""
    units = setting.rewards // UNIT
    asked = iter(range(1, units))

    def begin(unit: int) -> PendingRewards:
        time.sleep(generate_s)
        return rewards.submit(batch(unit, setting))

    work = Prefetcher(begin, lambda: next(asked, None) if ahead else None)
    start = time.perf_counter()
    for unit in range(units):
        check(work.take(unit).result().rewards, unit)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rewards", type=int, default=6000)
    parser.add_argument("--cost_ms", type=float, default=5.0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    setting = Setting(options.rewards, options.cost_ms / 1e3, options.workers)
    ideal = setting.rewards * setting.cost_s / setting.workers
    print(machine(torch.device("cpu")))
    rewards = RewardSet([judge], limits=WorkerLimits(workers=setting.workers, timeout_s=30, memory_mb=1000))
    rewards.open()
    took = all_at_once(rewards, setting)
    print(f"{setting.rewards} rewards of {options.cost_ms:g} ms, {setting.workers} workers")
    print(f"  ideal {ideal:.2f} s, took {took:.2f} s, ratio {took / ideal:.3f}")
    generate_s = UNIT * setting.cost_s / setting.workers
    print(f"an iteration whose generation takes {ideal:.2f} s as well, {setting.rewards // UNIT} units")
    for ahead in (True, False):
        took = beside_generation(rewards, setting, generate_s, ahead=ahead)
        what = "grading beside the next unit's generation" if ahead else "one after the other"
        print(f"  {what:<42} {took:.2f} s, {took / ideal:.3f} of the longer of the two")
    rewards.close()


if __name__ == "__main__":
    main()
