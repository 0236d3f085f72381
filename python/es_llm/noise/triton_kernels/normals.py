"""Philox4x32-10 and the normal transform, on tensors of blocks and on scalars."""

from __future__ import annotations

import triton
import triton.language as tl

from es_llm.noise import reference

_LOG = tl.constexpr(tuple(float(value) for value in reference.LOG))
_SIN = tl.constexpr(tuple(float(value) for value in reference.SIN))
_COS = tl.constexpr(tuple(float(value) for value in reference.COS))
_OCTAVE = tl.constexpr(float(reference.OCTAVE))
_HALF_TURN = tl.constexpr(2.0**-31)
_ROUNDS = tl.constexpr(reference.ROUNDS)
_M0 = tl.constexpr(reference.MULTIPLIERS[0])
_M1 = tl.constexpr(reference.MULTIPLIERS[1])
_STEP0 = tl.constexpr(reference.KEY_STEP[0])
_STEP1 = tl.constexpr(reference.KEY_STEP[1])


@triton.jit
def noise(c0, c1, c2, c3, k0, k1):
    """Four standard normals per block: four times (B,) of the words c0 (B,); the other words, uint32 too, may be
    scalars.

    The 64-bit product is one instruction on the device. With scalars for c1, c2 and c3, half of the products of rounds
    1 and 2 are scalar, and the others don't depend on the pair c2: the compiler takes them out of a loop over pairs.
    """
    for _ in tl.static_range(_ROUNDS):
        p0 = c0.to(tl.uint64) * _M0
        p1 = c2.to(tl.uint64) * _M1
        c0 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0
        c1 = p1.to(tl.uint32)
        c2 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c3 = p0.to(tl.uint32)
        k0 += _STEP0
        k1 += _STEP1
    n0, n1 = _box_muller(c0, c1)
    n2, n3 = _box_muller(c2, c3)
    return n0, n1, n2, n3


@triton.jit
def in_order(n0, n1, n2, n3, B: tl.constexpr):
    """(4 B,) of four times (B,): value j of block b at 4 b + j.

    A thread makes a whole block out of one counter, and the four values are neighbours here in the same thread's
    registers: nothing moves, and memory is read and written in vectors. That holds where a thread takes four values
    of 32 bits at a time, and outside of loops, whose variables have a layout of their own.
    """
    return tl.reshape(tl.join(tl.join(n0, n2), tl.join(n1, n3)), (4 * B,))


@triton.jit
def _box_muller(w0, w1):
    """n0 = r sin(pi x / 2), n1 = +-r cos(pi x / 2), as `reference.box_muller`."""
    m = ((w0 & 0x7FFFFFFF) | 1).to(tl.int32, bitcast=True).to(tl.float32)
    a = m.to(tl.uint32, bitcast=True) - 0x4EC00000
    k = (a.to(tl.int32, bitcast=True) >> 23).to(tl.float32)
    t = ((a & 0x007FFFFF) + 0x3F400000).to(tl.float32, bitcast=True) - 1.0
    p = tl.fma(t, _LOG[7], _LOG[6])
    for i in tl.static_range(6):
        p = tl.fma(p, t, _LOG[5 - i])
    r = tl.sqrt_rn(tl.fma(t, p, k * _OCTAVE))
    x = w1.to(tl.int32, bitcast=True).to(tl.float32) * _HALF_TURN
    z = x * x
    p = tl.fma(z, _SIN[4], _SIN[3])
    q = tl.fma(z, _COS[4], _COS[3])
    for i in tl.static_range(3):
        p = tl.fma(p, z, _SIN[2 - i])
        q = tl.fma(q, z, _COS[2 - i])
    cosine = (r * q).to(tl.uint32, bitcast=True) ^ (w0 & 0x80000000)
    return (r * x) * p, cosine.to(tl.float32, bitcast=True)
