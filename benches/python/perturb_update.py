"""Perturb + restore + update of ours beside the peer loop, in one run, the answers checked while they are timed.

    python benches/python/perturb_update.py [--parameters 100e6] [--members 30] [--threads 2] [--dtype float32 bfloat16]

The peer loop is what ES code for language models does: per member and tensor a `torch.Generator` seeded anew,
`torch.randn` in the parameter's type, `add_` before and `sub_` after the evaluation; the update is N such passes with
a float32 accumulator. Ours: perturb writes the live weights from the float32 master (there is no restore pass; one
more write gives the unperturbed weights), and one pass over the weights updates for all members.

Checks while timing: ours leaves round(master) after the cycle, bit for bit, and its update equals a float64 sum over
the same noise; of the peer, which draws other noise, the share of weights that its cycle changed is printed, and its
update is compared with its own noise in float64.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from es_llm import _core
from es_llm.model.weights import Weights

SIGMA = 1e-3
LEARNING_RATE = 5e-4
LAYER = ((2048, 2048), (2048, 512), (2048, 5504), (5504, 2048), (2048,))
"""Shapes of one block, repeated until there are enough parameters."""


def module_of(parameters: float, dtype: torch.dtype) -> torch.nn.Module:
    """Parameters of a transformer's shapes, at least `parameters` in all, normal with std 0.02."""
    module = torch.nn.Module()
    generator = torch.Generator().manual_seed(0)
    count = index = 0
    while count < parameters:
        shape = LAYER[index % len(LAYER)]
        values = torch.empty(shape).normal_(0, 0.02, generator=generator).to(dtype)
        module.register_parameter(f"p{index}", torch.nn.Parameter(values))
        count, index = count + values.numel(), index + 1
    return module


def peer_noise(shape: torch.Size, seed: int, dtype: torch.dtype) -> torch.Tensor:
    """The noise of one member for one tensor, as peers draw it."""
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def peer_cycle(module: torch.nn.Module, seed: int) -> None:
    """Perturb, then restore by subtraction."""
    for sign in (1, -1):
        for weight in module.parameters():
            weight.add_(peer_noise(weight.shape, seed, weight.dtype), alpha=sign * SIGMA)


@torch.no_grad()
def peer_update(module: torch.nn.Module, seeds: list[int], coefficients: list[float]) -> None:
    """One tensor after the other, N noise passes into a float32 accumulator."""
    for weight in module.parameters():
        total = torch.zeros(weight.shape)
        for seed, coefficient in zip(seeds, coefficients, strict=True):
            total.add_(peer_noise(weight.shape, seed, weight.dtype), alpha=coefficient)
        weight.add_(total.to(weight.dtype))


def median_seconds(work: Callable[[], object], runs: int) -> float:
    """Median over `runs` after one warm-up."""
    work()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def record_of(members: int, iteration: int = 0) -> tuple[_core.Population, _core.Record]:
    """A population and the record of fitness values 0, 1, ..., N-1."""
    population = _core.Population(run_seed=1, population_size=members)
    assert iteration == 0
    return population, population.tell([float(n) for n in range(members)], sigma=SIGMA, learning_rate=LEARNING_RATE)


def check_update(before: torch.Tensor, after: torch.Tensor, noise: list[np.ndarray], coefficients: list[float]) -> None:
    """`after` is `before` plus the float64 sum of coefficient * noise, within float32 rounding."""
    expected = before.numpy().astype(np.float64)
    for values, coefficient in zip(noise, coefficients, strict=True):
        expected += coefficient * values.astype(np.float64)
    worst = np.abs(after.numpy().astype(np.float64) - expected).max()
    assert worst < 1e-7, f"update is off by {worst}"


def bench(parameters: float, members: int, dtype: torch.dtype, runs: int) -> None:
    """Print one table for one live type."""
    name = str(dtype).removeprefix("torch.")
    module = module_of(parameters, dtype)
    elements = sum(weight.numel() for weight in module.parameters())
    weights = Weights(module)
    population, record = record_of(members)
    member = population.ask()[0]
    first = next(module.parameters())

    def cycle() -> None:
        weights.perturb(member, run_seed=1, sigma=SIGMA)
        weights.unperturb()

    ours_cycle = median_seconds(cycle, runs)
    assert torch.equal(first, weights.master[0].to(dtype)), "ours must leave round(master)"
    before = weights.master[0][:64].clone()
    weights.update(record, run_seed=1)
    noise = []
    for pair in record.pairs:
        values = np.empty(before.numel(), np.float32)
        _core.fill(values, run_seed=1, iteration=0, pair=pair, tensor=0)
        noise.append(values.reshape(before.shape))
    check_update(before, weights.master[0][:64], noise, [float(c) for c in record.coefficients])
    ours_update = median_seconds(lambda: weights.update(record, run_seed=1), runs)

    peer = module_of(parameters, dtype)
    start = next(peer.parameters()).detach().clone()
    peer_cycle_s = median_seconds(lambda: peer_cycle(peer, 5), runs)
    moved = float((next(peer.parameters()) != start).float().mean())
    coefficients = [float(c) for c in record.coefficients]
    seeds = list(range(members))
    small = torch.nn.Module()
    small.register_parameter("p", torch.nn.Parameter(torch.zeros(64, 2048)))
    peer_update(small, seeds, coefficients)
    peer_values = [peer_noise(torch.Size((64, 2048)), seed, torch.float32).numpy() for seed in seeds]
    check_update(torch.zeros(64, 2048), next(small.parameters()).detach(), peer_values, coefficients)
    peer_update_s = median_seconds(lambda: peer_update(peer, seeds, coefficients), max(1, runs // 3))

    print(f"\n{name}: {elements / 1e6:.0f} M parameters, N = {members}, median of {runs}")
    print(f"{'':<22}{'peer loop':>12}{'ours':>12}{'ratio':>9}{'ours, M normals/s':>20}")
    rows = (
        ("perturb + restore", peer_cycle_s, ours_cycle, elements),
        ("update", peer_update_s, ours_update, elements * members),
        ("iteration (N + 1)", members * peer_cycle_s + peer_update_s, members * ours_cycle + ours_update, 0),
    )
    for label, theirs, mine, normals in rows:
        rate = f"{normals / mine / 1e6:>20.0f}" if normals else ""
        print(f"{label:<22}{theirs:>10.3f} s{mine:>10.3f} s{theirs / mine:>8.1f}x{rate}")
    print(f"weights changed after the perturb + restore cycles: peer {moved:.1%}, ours 0.0%")


def main() -> None:
    """Parse the options and run each type."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parameters", type=float, default=100e6)
    parser.add_argument("--members", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    _core.set_kernel_threads(options.threads)
    print(f"{options.threads} threads, torch {torch.__version__}")
    for name in options.dtype:
        bench(options.parameters, options.members, getattr(torch, name), options.runs)


if __name__ == "__main__":
    main()
