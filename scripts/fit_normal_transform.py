"""Fits the polynomials of the normal transform (docs/noise.md) and prints them as exact f32 constants.

Uses a weighted Remez exchange on a dense grid in float64. Then it rounds the coefficients to f32 and improves them by
small steps, so that they compensate each other's rounding.

    python scripts/fit_normal_transform.py
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Function = Callable[[Array], Array]


@dataclass(frozen=True)
class Problem:
    """A function on [low, high], the weight of its error, and fixed values for its first coefficients."""

    name: str
    function: Function
    weight: Function
    low: float
    high: float
    degree: int
    fixed: tuple[float, ...] = ()

    def grid(self, points: int) -> Array:
        """Chebyshev points, denser near the ends."""
        return (self.low + self.high) / 2 - (self.high - self.low) / 2 * np.cos(np.pi * np.linspace(0, 1, points))


def main() -> None:
    show(Problem("log", log_factor, log_weight, -0.25, 0.5, 7))
    show(Problem("sin", sin_factor, lambda z: 1 / sin_factor(z), 0, 1, 4))
    show(Problem("cos", cos_factor, np.ones_like, 0, 1, 4, (1.0,)))
    step = np.float32(-2 * np.log(2))
    print(f"-2 ln 2 = {step!s}  0x{step.view(np.uint32):08x}")


def log_factor(t: Array) -> Array:
    """-2 ln(1 + t) / t, the factor of t; -2 at t = 0."""
    safe = np.where(t == 0, 1.0, t)
    return np.where(t == 0, -2.0, -2 * np.log1p(safe) / safe)


def log_weight(t: Array) -> Array:
    """Relative error of s = -2 ln u per error of the factor, in the worst octave that t can occur in.

    t <= 0 occurs in the top octave, where s = t * factor; t > 0 only below it, where s has one 2 ln 2 more.
    """
    below = np.abs(t) / (2 * np.log(2) - 2 * np.log1p(t))
    return np.where(t <= 0, -1 / log_factor(t), below)


def sin_factor(z: Array) -> Array:
    """sin(pi x / 2) / x with z = x * x; pi / 2 at z = 0."""
    x = np.sqrt(np.where(z == 0, 1.0, z))
    return np.where(z == 0, np.pi / 2, np.sin(np.pi / 2 * x) / x)


def cos_factor(z: Array) -> Array:
    """cos(pi x / 2) with z = x * x."""
    return np.cos(np.pi / 2 * np.sqrt(z))


def show(problem: Problem) -> None:
    coefficients = rounded_fit(problem)
    grid = problem.grid(1_000_001)
    error = np.polyval(coefficients[::-1].astype(np.float64), grid) - problem.function(grid)
    worst = np.abs(error * problem.weight(grid)).max()
    print(f"{problem.name}: degree {problem.degree}, largest weighted error {worst:.2e}")
    for power, value in enumerate(coefficients):
        print(f"  c{power} = {value!s:>16}  0x{value.view(np.uint32):08x}")


def rounded_fit(problem: Problem) -> NDArray[np.float32]:
    """The minimax fit rounded to f32, then improved by steps of one or two units in the last place."""
    grid = problem.grid(8001)
    powers = grid[:, None] ** np.arange(problem.degree + 1)
    target, weights = problem.function(grid), problem.weight(grid)

    def worst(candidate: NDArray[np.float32]) -> float:
        return float(np.abs((powers @ candidate.astype(np.float64) - target) * weights).max())

    best = fit(problem).astype(np.float32)
    free = range(len(problem.fixed), problem.degree + 1)
    steps = [(i, j, a, b) for i in free for j in free for a in range(-2, 3) for b in range(-2, 3) if i <= j]
    while True:
        moved = [nudge(nudge(best, i, a), j, b) for i, j, a, b in steps]
        errors = [worst(candidate) for candidate in moved]
        if min(errors) >= worst(best):
            return best
        best = moved[int(np.argmin(errors))]


def nudge(coefficients: NDArray[np.float32], index: int, units: int) -> NDArray[np.float32]:
    """A copy with one coefficient moved by this many units in the last place."""
    bits = coefficients.view(np.int32).copy()
    bits[index] += units
    return bits.view(np.float32)


def fit(problem: Problem) -> Array:
    """All coefficients, constant term first, of the weighted minimax polynomial."""
    given = len(problem.fixed)
    free = problem.degree + 1 - given
    grid = problem.grid(40001)
    powers = grid[:, None] ** np.arange(problem.degree + 1)
    target = problem.function(grid) - powers[:, :given] @ np.array(problem.fixed)
    weights = problem.weight(grid)
    picks = np.linspace(0, len(grid) - 1, free + 1).astype(int)
    for _ in range(60):
        signs = (-1.0) ** np.arange(free + 1) / np.maximum(weights[picks], 1e-9)
        matrix = np.column_stack([powers[picks, given:], signs])
        solved = np.linalg.solve(matrix, target[picks])[:free]
        new = alternating((powers[:, given:] @ solved - target) * weights, free + 1)
        if new is None or np.array_equal(new, picks):
            break
        picks = new
    return np.concatenate([problem.fixed, solved])


def alternating(error: Array, count: int) -> NDArray[np.int64] | None:
    """Indices of `count` extrema of alternating sign, the largest ones; None if there are fewer."""
    edges = np.flatnonzero(np.diff(np.sign(error)) != 0) + 1
    runs = np.split(np.arange(len(error)), edges)
    peaks = [run[np.argmax(np.abs(error[run]))] for run in runs]
    while len(peaks) > count:
        peaks.pop(0 if abs(error[peaks[0]]) < abs(error[peaks[-1]]) else -1)
    return np.array(peaks) if len(peaks) == count else None


if __name__ == "__main__":
    main()
