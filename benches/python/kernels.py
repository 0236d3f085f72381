"""Perturb + restore, update, low-rank update and replay: ours, the peer loop and a plain memory copy.

    python benches/python/kernels.py                  100 M parameters, float32 and bfloat16, 2 threads, N = 30
    python benches/python/kernels.py --replay_iterations 500
    python benches/python/kernels.py --device cuda    the shapes of a 7B model in bfloat16

All are timed in turns in one run, and their results are checked (`answers.py`). The peer loop restores by subtraction.
Ours writes the live weights from the float32 masters, so "restore" is one more write, which is not needed between two
members. The line "per member" compares the peer loop's perturb + restore with our perturb. The line "iteration" is N
times that, and the update.

Columns: `values/s` counts noise values (for the low-rank update: multiplications) per core or GPU. `GB/s` counts the
bytes of weights that must be read and written. `copy` is their rate as a share of the bandwidth of a plain copy.
`noise` is the share of the noise rate without the cost of memory (64 pairs over weights that fit the cache). If one of
the two is near 100 %, the kernel is near the machine's limit.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from answers import check_live, check_low_rank, check_update, masters_of, terms_of
from measure import copy_bandwidth, in_turn, machine, noise_rate, peak_bytes, seconds_of
from peer import PeerLoop

from es_llm import _core
from es_llm.checkpoint.replay import replay_records
from es_llm.model.device import free_memory
from es_llm.model.weights import Weights
from es_llm.noise.backend import backend_for
from es_llm.noise.perturbation import low_rank, noise_of

SIGMA = 1e-3
LEARNING_RATE = 5e-4
RUN_SEED = 1
SMALL = ((2048, 2048), (2048, 512), (2048, 5504), (5504, 2048), (2048,))
LARGE = (*((4096, 4096),) * 4, *((11008, 4096),) * 2, (4096, 11008), (4096,), (4096,))
"""Shapes of one block of a 1B model (SMALL) and of a 7B model, repeated until there are enough parameters."""
DTYPES = ("float32", "bfloat16", "float16")
MEMORY_LIMIT = 64e6
"""Most bytes that perturb and updates may need beyond the weights, on two threads of a CPU."""


@dataclass
class Setting:
    """The options of a bench; `cores` is 1 for a GPU."""

    device: torch.device
    dtype: torch.dtype
    parameters: float
    members: int
    rank: int
    runs: int
    cores: int
    bandwidth: float
    rate: float


def module_of(setting: Setting) -> torch.nn.Module:
    """A module with at least `parameters` parameters in a transformer's shapes, normal with std 0.02."""
    module = torch.nn.Module()
    generator = torch.Generator(setting.device).manual_seed(0)
    shapes = LARGE if setting.device.type == "cuda" else SMALL
    count = index = 0
    while count < setting.parameters:
        values = torch.empty(shapes[index % len(shapes)], device=setting.device)
        values.normal_(0, 0.02, generator=generator)
        module.register_parameter(f"p{index}", torch.nn.Parameter(values.to(setting.dtype)))
        count, index = count + values.numel(), index + 1
    return module


def weights_of(module: torch.nn.Module) -> Weights:
    """Weights with masters and live weights on one device: the bench times kernels, not a bus."""
    return Weights(module, master_device="device")


def require_room(setting: Setting) -> None:
    """Refuse a size that doesn't fit a GPU: masters, our live weights and the peer loop's, and its largest sums.

    Raises:
        SystemExit: the size doesn't fit; gives the needed and the free memory, and a size that fits.
    """
    if setting.device.type == "cpu":
        return
    largest = 4 * max(np.prod(shape) for shape in LARGE)
    needed = setting.parameters * (4 + 2 * setting.dtype.itemsize) + 3 * largest
    free = free_memory(setting.device)
    if needed > free:
        fitting = 0.9 * free / needed * setting.parameters
        raise SystemExit(
            f"{setting.parameters / 1e9:.1f} G parameters with masters on the device need {needed / 1e9:.1f} GB, "
            f"{free / 1e9:.1f} GB are free on {setting.device}; use --parameters {fitting:.1e}"
        )


class Ours:
    """This package's kernels on a module: a population of N members with fitness 0, 1, ..., N-1."""

    def __init__(self, setting: Setting) -> None:
        self.module = module_of(setting)
        self.weights = weights_of(self.module)
        population = _core.Population(run_seed=RUN_SEED, population_size=setting.members)
        self.member = population.ask(sigma=SIGMA)[-1]
        fitness = [float(n) for n in range(setting.members)]
        self.record = population.tell(fitness, sigma=SIGMA, learning_rate=LEARNING_RATE)
        self.rank = setting.rank

    def perturb(self) -> None:
        self.weights.perturb(self.member)

    def cycle(self) -> None:
        self.perturb()
        self.weights.unperturb()

    def update(self) -> None:
        self.weights.update(self.record)

    def low_rank_update(self) -> None:
        backend, terms = backend_for(self.weights.device), terms_of(self.record)
        reports = [
            backend.accumulate(
                master, terms, noise_of(tensor, tuple(master.shape), low_rank(self.rank)), torch.bfloat16
            )
            for tensor, master in enumerate(self.weights.master)
            if master.ndim == 2
        ]
        backend.settle(reports)

    def check(self, device: torch.device) -> dict[str, int | None]:
        """Check the result of every kernel. Returns the peak memory of each kernel."""
        self.perturb()
        check_live(self.module, self.weights, self.member)
        before = masters_of(self.weights)
        memory = {"perturb": peak_bytes(self.cycle, device), "update": peak_bytes(self.update, device)}
        check_update(before, self.weights, [self.record])
        block = self._block()
        memory[f"low rank {self.rank}"] = peak_bytes(self.low_rank_update, device)
        check_low_rank(block, self._block(), self.record, rank=self.rank)
        return memory

    def check_restored(self) -> None:
        """Check that the live weights are round(master) again."""
        for live, master in zip(self.module.parameters(), self.weights.master, strict=True):
            assert torch.equal(live, master.to(live.dtype)), "ours must leave round(master)"

    def _block(self) -> np.ndarray:
        return np.ascontiguousarray(self.weights.master[0][:20, :30].cpu().numpy())


def bench(setting: Setting, paths: list[str]) -> float:
    """Print one table. Returns the seconds of our update; all weights are freed by then."""
    require_room(setting)
    ours = Ours(setting)
    memory = ours.check(setting.device)
    for path in paths:
        with_path(path, partial(ours.check, setting.device))
    peer = PeerLoop(module_of(setting), sigma=SIGMA)
    start = [weight.detach().clone() for weight in peer.weights[:4]]
    works: dict[str, Callable[[], object]] = {
        "peer cycle": partial(peer.cycle, 5),
        "cycle": ours.cycle,
        "perturb": ours.perturb,
    }
    seconds = in_turn(works, setting.runs, setting.device)
    pairs = zip(start, peer.weights, strict=False)
    drift = float(torch.cat([(before != after).flatten() for before, after in pairs]).float().mean())
    ours.cycle()
    ours.check_restored()
    seeds, coefficients = list(range(setting.members)), [float(value) for value in ours.record.sgd_coefficients()]
    works = {
        "peer update": partial(peer.update, seeds, coefficients),
        "update": ours.update,
        "peer low rank": partial(peer.low_rank_update, seeds, coefficients, setting.rank),
        "low rank": ours.low_rank_update,
    }
    for path in paths:
        works[path] = partial(with_path, path, ours.update)
    seconds |= in_turn(works, setting.runs, setting.device)
    print_table(setting, seconds, list(ours.module.parameters()), paths)
    print(f"weights that perturb + restore changed: peer loop {drift:.1%}, ours 0.0 %")
    limit = MEMORY_LIMIT * max(setting.cores / 2, 1)
    for what, peak in memory.items():
        print(f"peak memory of {what} beyond the weights: {megabytes(peak)}")
        assert peak is None or setting.device.type == "cuda" or peak < limit, f"{what} needs {peak} bytes"
    return seconds["update"]


def with_path(path: str, work: Callable[[], object]) -> None:
    """Run `work` with another instruction set."""
    _core.set_kernel_path(path)
    try:
        work()
    finally:
        _core.set_kernel_path(None)


def print_table(setting: Setting, seconds: dict[str, float], weights: list[torch.Tensor], paths: list[str]) -> None:
    """Print one line per kernel."""
    members = setting.members
    elements = sum(weight.numel() for weight in weights)
    matrices = sum(weight.numel() for weight in weights if weight.ndim == 2)
    live, whole = (4 + setting.dtype.itemsize) * elements, 8 * elements
    theirs, mine = seconds["peer cycle"], seconds["cycle"]
    per_update = seconds["peer update"]
    rows = [
        ("perturb", theirs / 2, seconds["perturb"], elements, live),
        ("perturb + restore", theirs, mine, elements, 2 * live),
        ("per member", theirs, seconds["perturb"], elements, live),
        (f"update, N = {members}", per_update, seconds["update"], elements * members, whole),
        *((f"update, {path}", per_update, seconds[path], elements * members, whole) for path in paths),
        (
            f"iteration, N = {members}",
            members * theirs + per_update,
            members * seconds["perturb"] + seconds["update"],
            2 * members * elements,
            members * live + whole,
        ),
        (
            f"low rank {setting.rank}, N = {members}",
            seconds["peer low rank"],
            seconds["low rank"],
            matrices * members * setting.rank,
            8 * matrices,
        ),
    ]
    name = str(setting.dtype).removeprefix("torch.")
    print(f"\n{name}: {elements / 1e6:.0f} M parameters, N = {members}, median of {setting.runs} rounds")
    print(f"{'':<22}{'peer loop':>12}{'ours':>11}{'ratio':>9}{'values/s':>12}{'GB/s':>9}{'copy':>8}{'noise':>8}")
    for label, their_s, our_s, values, moved in rows:
        noise = "-" if label.startswith("low") else f"{values / our_s / setting.rate:.0%}"
        print(
            f"{label:<22}{their_s:>10.3f} s{our_s:>9.3f} s{their_s / our_s:>8.1f}x"
            f"{values / our_s / setting.cores / 1e6:>10.0f} M{moved / our_s / 1e9:>9.1f}"
            f"{moved / our_s / setting.bandwidth:>8.0%}{noise:>8}"
        )
    copy, noise_share = live / seconds["perturb"] / setting.bandwidth, elements / seconds["perturb"] / setting.rate
    limit = "memory" if copy > noise_share else "arithmetic"
    print(f"perturb is nearer to the limit of {limit}: {max(copy, noise_share):.0%} of it")


def bench_replay(setting: Setting, iterations: int, update: float) -> None:
    """Write a journal, replay it, and compare the time with the time of the same number of updates."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "journal"
        write_journal(path, setting.members, iterations)
        size, journal = path.stat().st_size, _core.Journal.read(str(path))
    weights = weights_of(module_of(setting))
    before = masters_of(weights)
    population = _core.Population(run_seed=RUN_SEED, population_size=setting.members)
    seconds = []

    def work() -> None:
        replay = partial(replay_records, journal.records, weights, population, journal.digests)
        seconds.append(seconds_of(replay, setting.device))

    peak = peak_bytes(work, setting.device)
    check_update(before, weights, journal.records)
    each = seconds[0] / iterations
    took, speed = f"{seconds[0]:.1f} s, {each:.3f} s each", f"{update / each:.0%} of the speed of the update above"
    print(f"replay of {iterations} iterations from a journal of {size / 1e3:.1f} kB: {took}, {speed}")
    print(f"  500 at this speed: {500 * each:.0f} s; peak memory beyond the weights: {megabytes(peak)}: the")
    print("  noise is in registers and in tiles of 1 kB, so the peak doesn't grow with the model or with N")


def write_journal(path: Path, members: int, iterations: int) -> None:
    """Write a journal with random fitness."""
    population = _core.Population(run_seed=RUN_SEED, population_size=members)
    random = np.random.default_rng(0)
    writer = _core.JournalWriter.create(str(path), "{}")
    for _ in range(iterations):
        record = population.tell(random.random(members).tolist(), sigma=SIGMA, learning_rate=LEARNING_RATE)
        writer.append_record(record)
        population.apply(record)


def megabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:.1f} MB"


def at_least(least: int) -> Callable[[str], int]:
    """A parser of command-line numbers that are at least `least`."""

    def number(text: str) -> int:
        value = int(float(text))
        if value < least:
            raise argparse.ArgumentTypeError(f"must be >= {least}, got {text}")
        return value

    return number


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--parameters", type=at_least(1), help="default: 100e6, or 6.7e9 on a GPU")
    parser.add_argument("--members", type=at_least(2), default=30)
    parser.add_argument("--threads", type=at_least(1), default=2)
    parser.add_argument("--runs", type=at_least(1), default=3)
    parser.add_argument("--rank", type=at_least(1), default=1, help="of the low-rank update")
    parser.add_argument("--dtype", nargs="+", choices=DTYPES, help="default: float32 bfloat16; bfloat16 on a GPU")
    parser.add_argument(
        "--kernel_path",
        nargs="*",
        choices=_core.kernel_paths(),
        help="instruction sets to force; default: all but plain",
    )
    parser.add_argument("--replay_iterations", type=at_least(0), default=10, help="0: no replay")
    options = parser.parse_args()
    if options.device not in ("cpu", "cuda"):
        parser.error(f"--device must be cpu or cuda, got {options.device}")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device cuda: torch {torch.__version__} sees no CUDA device")
    return options


def main() -> None:
    """Run the bench for each type."""
    options = parse()
    torch.set_num_threads(options.threads)
    _core.set_kernel_threads(options.threads)
    cuda = options.device == "cuda"
    device = torch.device("cuda", 0) if cuda else torch.device("cpu")
    paths = options.kernel_path
    if paths is None:
        paths = [path for path in _core.kernel_paths() if path != "plain" and not cuda]
    parameters = options.parameters or (6.7e9 if cuda else 100e6)
    cores = 1 if cuda else options.threads
    bandwidth, rate = copy_bandwidth(device), noise_rate(device)
    print(machine(device))
    print("" if cuda else f"{cores} threads, fastest instruction set {_core.kernel_path()}; ", end="")
    print(f"copy {bandwidth / 1e9:.1f} GB/s read + written, noise {rate / cores / 1e6:.0f} M values/s per core or card")
    for name in options.dtype or (["bfloat16"] if cuda else ["float32", "bfloat16"]):
        setting = Setting(
            device=device,
            dtype=getattr(torch, name),
            parameters=parameters,
            members=options.members,
            rank=options.rank,
            runs=options.runs,
            cores=cores,
            bandwidth=bandwidth,
            rate=rate,
        )
        update = bench(setting, paths)
        if options.replay_iterations:
            bench_replay(setting, options.replay_iterations, update)


if __name__ == "__main__":
    main()
