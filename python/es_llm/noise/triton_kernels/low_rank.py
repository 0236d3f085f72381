"""Kernels of low-rank noise: E = A B^T / sqrt(R), never built; see `docs/noise.md`.

The factors of N pairs lie in memory with one line per (pair, k), pairs first: `left` (N R, height) of scaled A and
`right` (N R, width) of B, padded with zeros to multiples of H and W. A program works on a tile of H rows and W columns
of the block. W is many times the threads of a program, so that a thread has several rows and columns of the tile in
registers, and reads few factors for many FMAs.
"""

from __future__ import annotations

import triton
import triton.language as tl

from es_llm.noise.triton_kernels.normals import in_order, noise
from es_llm.noise.triton_kernels.rounding import converted, magnitude, mend, too_large
from es_llm.noise.triton_kernels.span import counters, inside, span
from es_llm.noise.triton_kernels.update import report

_SCALARS = ["element", "columns", "programs", "word", "iteration", "k0", "k1", "rows", "rank", "lines"]


@triton.jit(do_not_specialize=_SCALARS)
def factors(
    out,
    pairs,
    coefficients,
    element: tl.int64,
    columns: tl.int64,
    programs: tl.int32,
    word: tl.uint32,
    iteration: tl.uint32,
    k0: tl.uint32,
    k1: tl.uint32,
    rank: tl.int32,
    SCALED: tl.constexpr,
    T: tl.constexpr,
    B: tl.constexpr,
    EVEN: tl.constexpr,
    CARRY: tl.constexpr,
):
    """Row p of `out` (N, values) = the noise of pair p from `element` on; with SCALED, times coefficient p / sqrt(R).

    `columns` values; with EVEN, in units of 16.
    """
    begin, offset, low, high = span(element, 0, columns, programs, 4 * T * B, EVEN)
    p = tl.program_id(0) // programs
    pair = tl.load(pairs + p).to(tl.uint32, bitcast=True)
    if SCALED:
        scale = tl.load(coefficients + p) * tl.div_rn(1.0, tl.sqrt_rn(rank.to(tl.float32)))
    key0, key1, c1_word = k0.to(tl.uint32), k1.to(tl.uint32), word.to(tl.uint32)
    for t in tl.static_range(T):
        c0, c1 = counters(begin, c1_word, t, B, CARRY)
        n0, n1, n2, n3 = noise(c0, c1, pair, iteration.to(tl.uint32), key0, key1)
        values = in_order(n0, n1, n2, n3, B)
        if SCALED:
            values = scale * values
        tl.store(out + offset + t * 4 * B + tl.arange(0, 4 * B), values, mask=inside(low, high, t, B, EVEN))


@triton.jit(do_not_specialize=_SCALARS)
def perturb(
    live,
    master,
    wrong,
    left,
    right,
    lines: tl.int32,
    rows: tl.int64,
    columns: tl.int64,
    LIVE: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    EVEN: tl.constexpr,
):
    """live = round(master + acc); `wrong` as in `weights.perturb`."""
    o, i, index, mask = _tile(rows, columns, H, W, EVEN)
    acc = _chain(left, right, lines, o, i, rows, columns, H, W, EVEN)
    value = tl.load(master + index, mask=mask, other=0.0) + acc
    tl.store(live + index, converted(value, LIVE), mask=mask)
    if too_large(magnitude(tl.full((H, W), 0.0, tl.float32), value), LIVE) > 0:
        tl.debug_barrier()
        tl.atomic_add(wrong, mend(live + index, mask, LIVE))


@triton.jit(do_not_specialize=_SCALARS)
def accumulate(
    master,
    sums,
    left,
    right,
    lines: tl.int32,
    rows: tl.int64,
    columns: tl.int64,
    LIVE: tl.constexpr,
    H: tl.constexpr,
    W: tl.constexpr,
    EVEN: tl.constexpr,
):
    """master += acc where acc != 0; `sums` as in `update.accumulate`."""
    o, i, index, mask = _tile(rows, columns, H, W, EVEN)
    acc = _chain(left, right, lines, o, i, rows, columns, H, W, EVEN)
    old = tl.load(master + index, mask=mask, other=0.0)
    new = tl.where(acc == 0.0, old, old + acc)
    tl.store(master + index, new, mask=mask)
    report(sums + tl.program_id(0).to(tl.int64) * 5, tl.where(mask, acc, 0.0), old, tl.where(mask, new, 0.0), LIVE)


@triton.jit
def _tile(rows, columns, H: tl.constexpr, W: tl.constexpr, EVEN: tl.constexpr):
    """This program's rows (H,), columns (W,), indices in the block (H, W), and a mask of those inside it. Tiles are
    numbered down first, so that programs that run together share the lines of `right` in the caches."""
    width = columns.to(tl.int64) * 16 if EVEN else columns.to(tl.int64)
    down = (rows.to(tl.int64) + (H - 1)) // H
    program = tl.program_id(0).to(tl.int64)
    o = (program % down) * H + tl.arange(0, H)
    i = (program // down) * W + tl.arange(0, W)
    mask = (o < rows)[:, None] & (i < width)[None, :]
    return o, i, o[:, None] * width + i[None, :], mask


@triton.jit
def _chain(left, right, lines, o, i, rows, columns, H: tl.constexpr, W: tl.constexpr, EVEN: tl.constexpr):
    """acc (H, W): acc = 0; acc = fma(left[l, o], right[l, i], acc) for each line l in order."""
    width = columns.to(tl.int64) * 16 if EVEN else columns.to(tl.int64)
    height = (rows.to(tl.int64) + (H - 1)) // H * H
    width = (width + (W - 1)) // W * W
    left += o
    right += i
    acc = tl.full((H, W), 0.0, tl.float32)
    for _ in range(lines):
        acc = tl.fma(tl.load(left)[:, None], tl.load(right)[None, :], acc)
        left += height
        right += width
    return acc
