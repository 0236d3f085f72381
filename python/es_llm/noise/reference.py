"""The noise and its kernels in plain numpy, which every backend must equal, bit for bit. For tests; readable, not fast.

`docs/noise.md` states the contract. Sources: Philox4x32-10, Salmon et al., "Parallel random numbers: as easy as 1, 2,
3", SC11; Box & Muller, "A note on the generation of random normal deviates", 1958. Legend: B blocks, n values.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from es_llm._core import LowRank, Noise, Slice, Terms
from es_llm.errors import KernelError
from es_llm.noise.backend import At
from es_llm.noise.streams import kind_number

F32 = NDArray[np.float32]
U32 = NDArray[np.uint32]

ROUNDS: Final = 10
MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
KEY_STEP: Final = (0x9E3779B9, 0xBB67AE85)


def _constants(*bits: int) -> F32:
    return np.array(bits, np.uint32).view(np.float32)


# fmt: off
LOG: Final = _constants(0xC0000000, 0x3F80005B, 0xBF2AA645, 0x3EFFA58F, 0xBECDCB40, 0x3EB2DEB1, 0xBE929570, 0x3E0956AC)
SIN: Final = _constants(0x3FC90FDB, 0xBF255DE2, 0x3DA33456, 0xBB992663, 0x391ED7DF)
COS: Final = _constants(0x3F800000, 0xBF9DE9D8, 0x3E81DED4, 0xBCAA820F, 0x3A615CC1)
OCTAVE: Final = _constants(0xBFB17218)[0]
# fmt: on
SPLIT: Final = np.uint32(0x4EC00000)
THREE_QUARTERS: Final = np.uint32(0x3F400000)
SIGN: Final = np.uint32(0x80000000)


def philox4x32(counter: U32, key: tuple[int, int]) -> U32:
    """Philox4x32-10: random words (..., 4) of counters (..., 4) under one key.

    A round, with hi and lo the halves of a 32 x 32 -> 64 bit product:
    (c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0)).
    """
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3 = (counter[..., word].astype(np.uint64) for word in range(4))
    k0, k1 = key
    for _ in range(ROUNDS):
        p0, p1 = c0 * np.uint64(MULTIPLIERS[0]), c2 * np.uint64(MULTIPLIERS[1])
        c0, c1 = (p1 >> half) ^ c1 ^ np.uint64(k0), p1 & low
        c2, c3 = (p0 >> half) ^ c3 ^ np.uint64(k1), p0 & low
        k0, k1 = (k0 + KEY_STEP[0]) & 0xFFFFFFFF, (k1 + KEY_STEP[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def fma(a: Any, b: Any, c: Any) -> F32:
    """Round(a * b + c) with a single rounding to float32.

    The product of two float32 is exact in float64. Its sum with c is rounded to float64 *to odd*: where it isn't
    exact, the last bit is set. Then the rounding to float32 sees on which side of a tie the exact value lies, because
    float64 has more than 2 * 24 + 1 bits (Boldo & Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
    The error of the sum is exact as well (Knuth's two-sum).
    """
    with np.errstate(invalid="ignore", over="ignore"):
        product = np.float64(a) * np.float64(b)
        addend = np.float64(c)
        total = np.atleast_1d(product + addend)
        back = total - product
        error = (product - (total - back)) + (addend - back)
        bits = total.view(np.int64)
        inexact = np.isfinite(total) & (error != 0) & (bits & 1 == 0)
        away = np.where((error > 0) == (total > 0), 1, -1)
        odd = np.where(inexact, bits + away, bits).view(np.float64)
        return odd.astype(np.float32).reshape(np.broadcast_shapes(np.shape(a), np.shape(b), np.shape(c)))


def polynomial(coefficients: F32, t: F32) -> F32:
    """Horner's rule, constant term first in `coefficients`, one fma per degree."""
    total = np.full_like(t, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total = fma(total, t, coefficient)
    return total


def minus_two_ln(words: U32) -> F32:
    """s = -2 ln u >= 0 with u = ((w & 0x7fffffff) | 1) / 2^31 = 2^k z, z in [0.75, 1.5), t = z - 1 exact."""
    m = ((words & ~SIGN) | np.uint32(1)).astype(np.int32).astype(np.float32)
    a = m.view(np.uint32) - SPLIT
    k = (a.view(np.int32) >> 23).astype(np.float32)
    t = ((a & np.uint32(0x007FFFFF)) + THREE_QUARTERS).view(np.float32) - np.float32(1)
    return fma(t, polynomial(LOG, t), k * OCTAVE)


def box_muller(w0: U32, w1: U32) -> tuple[F32, F32]:
    """n0 = r sin(pi x / 2), n1 = +-r cos(pi x / 2); r from w0, x = int32(w1) / 2^31, the sign from w0's top bit."""
    r = np.sqrt(minus_two_ln(w0))
    x = w1.view(np.int32).astype(np.float32) * np.float32(2.0**-31)
    z = x * x
    cosine = r * polynomial(COS, z)
    return (r * x) * polynomial(SIN, z), (cosine.view(np.uint32) ^ (w0 & SIGN)).view(np.float32)


def normals(words: U32) -> F32:
    """Four standard normals (B, 4) of four random words (B, 4)."""
    w0, w1, w2, w3 = np.ascontiguousarray(words.T)
    return np.stack([*box_muller(w0, w1), *box_muller(w2, w3)], axis=-1)


def counters(noise: Noise, tensor: int, element: int, count: int, kind: str) -> U32:
    """Philox counters (B, 4) of the blocks that hold `count` elements from `element` on.

    c0 = low 32 bits of the block, c1 = kind (bits 31..28) | tensor (27..8) | bits 32..39 of the block (7..0),
    c2 = pair, c3 = iteration.
    """
    blocks = np.arange(element // 4, (element + count + 3) // 4, dtype=np.uint64)
    words = np.empty((len(blocks), 4), np.uint32)
    words[:, 0] = blocks & np.uint64(0xFFFF_FFFF)
    words[:, 1] = np.uint64(kind_number(kind) << 28 | tensor << 8) | blocks >> np.uint64(32)
    words[:, 2] = noise.pair
    words[:, 3] = noise.iteration
    return words


def values(noise: Noise, at: Slice, kind: str = "dense") -> F32:
    """The noise of a slice, row by row."""
    rows = [_run(noise, at.tensor, at.element + row * at.stride, at.columns, kind) for row in range(at.rows)]
    return np.concatenate(rows) if rows else np.empty(0, np.float32)


def _run(noise: Noise, tensor: int, element: int, count: int, kind: str) -> F32:
    """The noise of elements [element, element + count): value e mod 4 of block e div 4."""
    key = noise.run_seed & 0xFFFF_FFFF, noise.run_seed >> 32
    blocks = normals(philox4x32(counters(noise, tensor, element, count, kind), key)).reshape(-1)
    return blocks[element % 4 : element % 4 + count]


def rounded(values: F32, dtype: str) -> NDArray[Any]:
    """The values to nearest even: float32 unchanged, "bfloat16" and "float16" as uint16 bits, NaN as the default NaN.

    Raises:
        KernelError: any other dtype.
    """
    if dtype == "float32":
        return values.copy()
    if dtype == "bfloat16":
        bits = values.view(np.uint32).astype(np.uint64)
        nearest = ((bits + np.uint64(0x7FFF) + (bits >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)).astype(
            np.uint16
        )
        return np.where(np.isnan(values), np.uint16(0x7FC0), nearest)
    if dtype == "float16":
        with np.errstate(over="ignore", invalid="ignore"):
            return np.where(np.isnan(values), np.uint16(0x7E00), values.astype(np.float16).view(np.uint16))
    raise KernelError(f'`dtype` must be "float32", "bfloat16" or "float16", got {dtype!r}')


def widened(live: NDArray[Any], dtype: str) -> F32:
    """The values that `rounded` stored, as float32."""
    if dtype == "float32":
        return live
    if dtype == "bfloat16":
        return (live.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return live.view(np.float16).astype(np.float32)


def perturbed(master: F32, noise: Noise, scale: float, at: At, dtype: str) -> NDArray[Any]:
    """Live weights: round(fma(scale, noise, master)), or round(master + `low_rank_sum`) for low-rank noise."""
    factor = np.float32(scale)
    if isinstance(at, LowRank):
        terms = Terms(noise.run_seed, noise.iteration, np.array([factor]), [noise.pair])
        return rounded(master + low_rank_sum(terms, at), dtype)
    return rounded(fma(factor, values(noise, at).reshape(master.shape), master), dtype)


def accumulated(master: F32, terms: Terms, at: At) -> F32:
    """New masters: `moved` by the `intended` update."""
    return moved(master, intended(terms, at).reshape(master.shape))


def intended(terms: Terms, at: At) -> F32:
    """The intended update: acc = 0; for each pair in order, acc = fma(coefficient, noise, acc)."""
    if isinstance(at, LowRank):
        return low_rank_sum(terms, at)
    total = np.zeros(at.size, np.float32)
    for pair, coefficient in zip(terms.pairs, terms.coefficients, strict=True):
        total = fma(coefficient, values(Noise(terms.run_seed, terms.iteration, pair), at), total)
    return total


def moved(master: F32, total: F32) -> F32:
    """master + total, or the unchanged master where total is zero (-0 + 0 would be +0)."""
    return np.where(total == 0, master, master + total)


def update_report(master: F32, total: F32, live_dtype: str) -> tuple[int, int, float, float, float]:
    """The counts and sums of an update's report, from the masters before it and the intended update u (`total`).

    Returns:
        The number of live weights that change their value (NaN stays NaN); the number that are NaN or infinite
        afterwards; and the sums of u^2, d^2 and u d over the elements whose d is finite, with d the change of the live
        weight in float32.
    """
    before, after = (widened(rounded(values, live_dtype), live_dtype) for values in (master, moved(master, total)))
    with np.errstate(invalid="ignore", over="ignore"):
        change = after - before
    finite = np.isfinite(change)
    u, d = (values[finite].astype(np.float64) for values in (total, change))
    count = int(((before != after) & ~np.isnan(before)).sum())
    return count, int((~np.isfinite(after)).sum()), float(u @ u), float(d @ d), float(u @ d)


def low_rank_sum(terms: Terms, at: LowRank) -> F32:
    """Sum over the pairs of coefficient / sqrt(rank) * A B^T, for a block of a matrix.

    A is (out, rank), B is (in, rank), each with noise of its own kind. s = 1 / sqrt(rank); L = (coefficient * s) * A;
    acc = 0; for each pair in order, for each k: acc = fma(L[o, k], B[i, k], acc); every step rounded to float32.
    """
    total = np.zeros(at.shape, np.float32)
    s = np.float32(1) / np.sqrt(np.float32(at.rank))
    for pair, coefficient in zip(terms.pairs, terms.coefficients, strict=True):
        noise = Noise(terms.run_seed, terms.iteration, pair)
        a, b = (
            _run(noise, at.tensor, first * at.rank, size * at.rank, kind).reshape(size, at.rank)
            for kind, first, size in (("low_rank_a", at.row, at.shape[0]), ("low_rank_b", at.column, at.shape[1]))
        )
        left = (np.float32(coefficient) * s) * a
        for k in range(at.rank):
            total = fma(left[:, k, None], b[None, :, k], total)
    return total


def digest(master: F32, at: Slice) -> int:
    """Sum modulo 2^64 of h(tensor, element) * (2 * bits + 1); h is SplitMix64's output of the position, made odd."""
    index = np.arange(at.size, dtype=np.uint64)
    index = index // np.uint64(at.columns) * np.uint64(at.stride) + index % np.uint64(at.columns)
    x = np.uint64(at.tensor << 42) + np.uint64(at.element) + index
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    factor = (x ^ x >> np.uint64(31)) | np.uint64(1)
    content = np.uint64(2) * master.view(np.uint32).astype(np.uint64) + np.uint64(1)
    return int((factor * content).sum(dtype=np.uint64))
