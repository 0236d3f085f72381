"""Rewards in killable workers: time compared with the work alone, and the share that runs beside generation.

    python benches/python/rewards.py      6,000 rewards of 5 ms; then an iteration whose generation takes as long

Grading waits 5 ms per completion, as it would for a judge or a compiler. Generation is a wait too, so two cores are
enough for both. All rewards are checked.
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
    """Number of rewards, seconds for each, and number of workers."""

    rewards: int
    cost_s: float
    workers: int


def judge(completions, number, cost_s, **columns):
    """Waits for each completion. The reward of a completion is the number in its row."""
    time.sleep(sum(cost_s))
    return [float(value) for value in number]


def batch(unit: int, setting: Setting) -> Batch:
    rows = [{"prompt": "p", "number": unit * UNIT + index, "cost_s": setting.cost_s} for index in range(UNIT)]
    return Batch.of(rows, ["x" * 200] * UNIT, [[1] * 50] * UNIT)


def check(totals: list[float | None], unit: int) -> None:
    assert totals == [float(unit * UNIT + index) for index in range(UNIT)], unit


def all_at_once(rewards: RewardSet, setting: Setting) -> float:
    """Seconds for all rewards, if all are submitted at the start."""
    start = time.perf_counter()
    pending = [rewards.submit(batch(unit, setting)) for unit in range(setting.rewards // UNIT)]
    for unit, each in enumerate(pending):
        check(each.result().rewards, unit)
    return time.perf_counter() - start


def beside_generation(rewards: RewardSet, setting: Setting, generate_s: float, *, ahead: bool) -> float:
    """Seconds of an iteration that generates its units one after the other, `generate_s` each, and grades them."""
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
