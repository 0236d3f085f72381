"""Kernels that draw noise, write live weights and digest masters. See `span.span` for how programs share the work."""

from __future__ import annotations

import triton
import triton.language as tl

from es_llm.noise.triton_kernels.normals import in_order, noise
from es_llm.noise.triton_kernels.rounding import add, converted, magnitude, mend, too_large
from es_llm.noise.triton_kernels.span import counters, inside, span

_ADDRESS = ["element", "stride", "columns", "programs", "word", "pair", "iteration", "k0", "k1", "tensor", "scale"]


@triton.jit(do_not_specialize=_ADDRESS)
def fill(
    out,
    element: tl.int64,
    stride: tl.int64,
    columns: tl.int64,
    programs: tl.int32,
    word: tl.uint32,
    pair: tl.uint32,
    iteration: tl.uint32,
    k0: tl.uint32,
    k1: tl.uint32,
    T: tl.constexpr,
    B: tl.constexpr,
    EVEN: tl.constexpr,
    CARRY: tl.constexpr,
):
    """out = noise."""
    begin, offset, low, high = span(element, stride, columns, programs, 4 * T * B, EVEN)
    key0, key1, c1_word = k0.to(tl.uint32), k1.to(tl.uint32), word.to(tl.uint32)
    for t in tl.static_range(T):
        c0, c1 = counters(begin, c1_word, t, B, CARRY)
        n0, n1, n2, n3 = noise(c0, c1, pair.to(tl.uint32), iteration.to(tl.uint32), key0, key1)
        pointers = out + offset + t * 4 * B + tl.arange(0, 4 * B)
        tl.store(pointers, in_order(n0, n1, n2, n3, B), mask=inside(low, high, t, B, EVEN))


@triton.jit(do_not_specialize=_ADDRESS)
def perturb(
    live,
    master,
    wrong,
    scale: tl.uint32,
    element: tl.int64,
    stride: tl.int64,
    columns: tl.int64,
    programs: tl.int32,
    word: tl.uint32,
    pair: tl.uint32,
    iteration: tl.uint32,
    k0: tl.uint32,
    k1: tl.uint32,
    LIVE: tl.constexpr,
    T: tl.constexpr,
    B: tl.constexpr,
    EVEN: tl.constexpr,
    CARRY: tl.constexpr,
):
    """live = round(fma(scale, noise, master)); `scale` comes as the bits of an f32; the live values
    that are NaN or infinite are added to the number at `wrong`."""
    begin, offset, low, high = span(element, stride, columns, programs, 4 * T * B, EVEN)
    key0, key1, c1_word = k0.to(tl.uint32), k1.to(tl.uint32), word.to(tl.uint32)
    factor = scale.to(tl.uint32).to(tl.float32, bitcast=True)
    largest = tl.full((4 * B,), 0.0, tl.float32)
    for t in tl.static_range(T):
        index = offset + t * 4 * B + tl.arange(0, 4 * B)
        mask = inside(low, high, t, B, EVEN)
        truth = tl.load(master + index, mask=mask, other=0.0)
        c0, c1 = counters(begin, c1_word, t, B, CARRY)
        n0, n1, n2, n3 = noise(c0, c1, pair.to(tl.uint32), iteration.to(tl.uint32), key0, key1)
        value = tl.fma(in_order(n0, n1, n2, n3, B), factor, truth)
        tl.store(live + index, converted(value, LIVE), mask=mask)
        largest = magnitude(largest, value)
    if too_large(largest, LIVE) > 0:
        tl.debug_barrier()
        count = tl.full((), 0, tl.int64)
        for t in tl.static_range(T):
            count += mend(live + offset + t * 4 * B + tl.arange(0, 4 * B), inside(low, high, t, B, EVEN), LIVE)
        tl.atomic_add(wrong, count)


@triton.jit(do_not_specialize=["size"])
def round(
    live,
    master,
    wrong,
    size: tl.int64,
    LIVE: tl.constexpr,
    T: tl.constexpr,
    B: tl.constexpr,
    EVEN: tl.constexpr,
):
    """live = round(master); with EVEN, `size` counts units of 16 values; `wrong` as in `perturb`."""
    first = tl.program_id(0).to(tl.int64) * (4 * T * B)
    high = (size.to(tl.int64) * 16 if EVEN else size.to(tl.int64)) - first
    largest = tl.full((4 * B,), 0.0, tl.float32)
    for t in tl.static_range(T):
        index = first + t * 4 * B + tl.arange(0, 4 * B)
        mask = inside(0, high, t, B, True)
        value = tl.load(master + index, mask=mask, other=0.0)
        tl.store(live + index, converted(value, LIVE), mask=mask)
        largest = magnitude(largest, value)
    if too_large(largest, LIVE) > 0:
        tl.debug_barrier()
        count = tl.full((), 0, tl.int64)
        for t in tl.static_range(T):
            count += mend(live + first + t * 4 * B + tl.arange(0, 4 * B), inside(0, high, t, B, True), LIVE)
        tl.atomic_add(wrong, count)


@triton.jit(do_not_specialize=_ADDRESS)
def digest(
    master,
    sums,
    element: tl.int64,
    stride: tl.int64,
    columns: tl.int64,
    programs: tl.int32,
    tensor: tl.int64,
    T: tl.constexpr,
    B: tl.constexpr,
    EVEN: tl.constexpr,
):
    """sums (programs,) = sum of h(tensor, element) * (2 * bits + 1) modulo 2^64; `tensor` comes times 2^42."""
    begin, offset, low, high = span(element, stride, columns, programs, 4 * T * B, EVEN)
    total = tl.full((4 * B,), 0, tl.uint64)
    for t in tl.static_range(T):
        near = t * 4 * B + tl.arange(0, 4 * B)
        mask = inside(low, high, t, B, EVEN)
        bits = tl.load(master + offset + near, mask=mask, other=0.0).to(tl.uint32, bitcast=True)
        x = (tensor.to(tl.int64) + begin + near).to(tl.uint64) + 0x9E3779B97F4A7C15
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB
        x = (x ^ (x >> 31)) | 1
        total += tl.where(mask, x * ((bits.to(tl.uint64) << 1) | 1), 0)
    tl.store(sums + tl.program_id(0), tl.reduce(total, 0, add).to(tl.int64))
