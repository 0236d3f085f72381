"""Measures times, memory and bandwidth of the machine, for the benches."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import torch

from es_llm._core import Slice, Terms
from es_llm.noise.backend import backend_for

PAUSE: Final = 0.3
"""Seconds to wait before each measurement: torch's idle threads spin for a while."""
TURN: Final = 0.4
"""Minimum seconds of a measurement: a short function is called repeatedly."""


def in_turn(works: dict[str, Callable[[], object]], runs: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each function over `runs` rounds; see `rounds`."""
    return {name: statistics.median(taken) for name, taken in rounds(works, runs, device).items()}


def ratios(seconds: dict[str, list[float]], base: str) -> dict[str, float]:
    """How many times as fast as `base` each function is: the median over rounds. So a slow minute counts for both."""
    pairs = {name: zip(seconds[base], taken, strict=True) for name, taken in seconds.items()}
    return {name: statistics.median(slow / fast for slow, fast in pair) for name, pair in pairs.items()}


def rounds(works: dict[str, Callable[[], object]], runs: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each function in each of `runs` rounds. A round measures each function; an extra round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for round_ in range(runs + 1):
        for name, work in works.items():
            time.sleep(PAUSE)
            taken = turn(work, device)
            if round_:
                seconds[name].append(taken)
    return seconds


def turn(work: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a call of `work`, measured for at least TURN seconds.

    If there are several calls, the first one doesn't count: cores that slept during the pause need tens of milliseconds
    to wake up, and in a training run no core sleeps before a kernel."""
    calls: list[float] = []
    while not calls or sum(calls) < TURN:
        calls.append(seconds_of(work, device))
    return statistics.median(calls[1:] or calls)


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, until the device has finished its work."""
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished all work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(work: Callable[[], object], device: torch.device) -> int | None:
    """Peak memory of `work` beyond the memory before it, in bytes; None if it can't be measured."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    except OSError:
        return None
    before = _status("VmRSS")
    work()
    return max(_status("VmHWM") - before, 0)


def _status(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written per second by a plain copy that is larger than the caches."""
    size = 1 << 30 if device.type == "cuda" else 100_000_000
    source, target = torch.ones(size, device=device), torch.zeros(size, device=device)
    return 8 * size / in_turn({"copy": lambda: target.copy_(source)}, 5, device)["copy"]


def noise_rate(device: torch.device) -> float:
    """Noise values per second if memory costs nothing: an update with 64 pairs of weights that fit into the cache."""
    terms = Terms(1, 0, np.ones(64, np.float32))
    master = torch.zeros(1 << 22 if device.type == "cuda" else 1 << 18, device=device)
    backend, at = backend_for(device), Slice(0, master.numel())

    def work() -> None:
        for _ in range(10):
            backend.accumulate(master, terms, at, torch.float32)

    return 10 * 64 * master.numel() / in_turn({"noise": work}, 5, device)["noise"]


def machine(device: torch.device) -> str:
    """The processor or GPU, the commit and the torch version."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    elif cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), name)
    changed = " with changes" if _git("status", "--porcelain") else ""
    return f"{name}; commit {_git('rev-parse', '--short', 'HEAD') or 'unknown'}{changed}; torch {torch.__version__}"


def _git(*words: str) -> str:
    here = Path(__file__).parent
    return subprocess.run(["git", *words], check=False, cwd=here, capture_output=True, text=True).stdout.strip()
