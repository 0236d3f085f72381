"""The kernel that moves masters: all pairs in one pass over the weights, the noise in registers."""

from __future__ import annotations

import triton
import triton.language as tl

from es_llm.noise.triton_kernels.normals import in_order, noise
from es_llm.noise.triton_kernels.rounding import add, nearest_f32
from es_llm.noise.triton_kernels.span import counters, inside, span


@triton.jit(
    do_not_specialize=[
        "count",
        "element",
        "stride",
        "columns",
        "programs",
        "word",
        "iteration",
        "k0",
        "k1",
        "coefficients",
    ]
)
def accumulate(
    master,
    sums,
    pairs,
    coefficients,
    count: tl.int32,
    element: tl.int64,
    stride: tl.int64,
    columns: tl.int64,
    programs: tl.int32,
    word: tl.uint32,
    iteration: tl.uint32,
    k0: tl.uint32,
    k1: tl.uint32,
    LIVE: tl.constexpr,
    B: tl.constexpr,
    EVEN: tl.constexpr,
    CARRY: tl.constexpr,
):
    """acc = 0; acc = fma(coefficient, noise(pair), acc) for the `count` pairs in order; master += acc where acc != 0.

    `pairs` (N,) holds 32-bit words, `coefficients` (N,) f32. A row of `sums` is this program's part of the report, see
    `report`.
    """
    begin, offset, low, high = span(element, stride, columns, programs, 4 * B, EVEN)
    c0, c1 = counters(begin, word.to(tl.uint32), 0, B, CARRY)
    key0, key1 = k0.to(tl.uint32), k1.to(tl.uint32)
    acc0 = tl.full((B,), 0.0, tl.float32)
    acc1, acc2, acc3 = acc0, acc0, acc0
    for i in range(count):
        pair = tl.load(pairs + i).to(tl.uint32, bitcast=True)
        factor = tl.load(coefficients + i)
        n0, n1, n2, n3 = noise(c0, c1, pair, iteration.to(tl.uint32), key0, key1)
        acc0 = tl.fma(n0, factor, acc0)
        acc1 = tl.fma(n1, factor, acc1)
        acc2 = tl.fma(n2, factor, acc2)
        acc3 = tl.fma(n3, factor, acc3)
    acc = in_order(acc0, acc1, acc2, acc3, B)
    pointers = master + offset + tl.arange(0, 4 * B)
    mask = inside(low, high, 0, B, EVEN)
    old = tl.load(pointers, mask=mask, other=0.0)
    new = tl.where(acc == 0.0, old, old + acc)
    tl.store(pointers, new, mask=mask)
    report(sums + tl.program_id(0).to(tl.int64) * 5, tl.where(mask, acc, 0.0), old, tl.where(mask, new, 0.0), LIVE)


@triton.jit
def report(sums, intended, old, new, LIVE: tl.constexpr):
    """Five f64: the number of live values that change, the number that aren't finite afterwards, and the sums of u^2,
    d^2 and u d over the elements whose d is finite, u the intended update, d the change of the rounded value."""
    before, after = nearest_f32(old, LIVE), nearest_f32(new, LIVE)
    change = after - before
    finite = tl.abs(change) < float("inf")
    u = tl.where(finite, intended, 0.0).to(tl.float64)
    d = tl.where(finite, change, 0.0).to(tl.float64)
    moved = (before != after) & (tl.abs(before) <= float("inf"))
    tl.store(sums, tl.reduce(moved.to(tl.int32), None, add).to(tl.float64))
    tl.store(sums + 1, tl.reduce(((tl.abs(after) < float("inf")) == 0).to(tl.int32), None, add).to(tl.float64))
    u0, u1, u2, u3 = _quarters(u)
    d0, d1, d2, d3 = _quarters(d)
    tl.store(sums + 2, _dot(u0, u0, u1, u1, u2, u2, u3, u3))
    tl.store(sums + 3, _dot(d0, d0, d1, d1, d2, d2, d3, d3))
    tl.store(sums + 4, _dot(u0, d0, u1, d1, u2, d2, u3, d3))


@triton.jit
def _quarters(x):
    """Four parts of the values, each with one of four neighbours: a thread has them in its registers."""
    even, odd = tl.split(tl.reshape(x, (x.numel // 4, 2, 2)))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    return x0, x1, x2, x3


@triton.jit
def _dot(a0, b0, a1, b1, a2, b2, a3, b3):
    """Sum of products of f32, in f64: exact there, so an fma changes no bit; but f64 is slow on many cards."""
    return tl.reduce(tl.fma(a3, b3, tl.fma(a2, b2, tl.fma(a1, b1, a0 * b0))), None, add)
