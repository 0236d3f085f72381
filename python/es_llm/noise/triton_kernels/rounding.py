"""f32 -> live types, to nearest even, and the rare values that the device's conversion isn't enough for.

16-bit values are int16 in memory. The device's conversions (compute capability 8.0 and up) round as in IEEE 754, keep
denormals and go to infinity, but turn NaN into 7fff. So a kernel keeps the largest magnitude of what it stores, one
instruction per value; where one is `too_large`, NaN or infinite, it calls `mend`, which counts.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def converted(value, LIVE: tl.constexpr):
    """The nearest value as it is stored, correct except for NaN."""
    if LIVE == "float32":
        return value
    elif LIVE == "bfloat16":
        return value.to(tl.bfloat16).to(tl.int16, bitcast=True)
    else:
        return value.to(tl.float16).to(tl.int16, bitcast=True)


@triton.jit
def nearest_f32(value, LIVE: tl.constexpr):
    """The nearest value of the live type, as f32."""
    if LIVE == "float32":
        return value
    elif LIVE == "bfloat16":
        return value.to(tl.bfloat16).to(tl.float32)
    else:
        return value.to(tl.float16).to(tl.float32)


@triton.jit
def magnitude(largest, value):
    """The larger of `largest` and |value|; NaN if either is."""
    return tl.maximum(largest, tl.abs(value), propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def too_large(largest, LIVE: tl.constexpr):
    """How many of these magnitudes don't round to a finite value."""
    if LIVE == "float32":
        finite = largest < float("inf")
    elif LIVE == "bfloat16":
        finite = largest < 3.3961775292304957e38  # 7f7f8000, half a unit above the largest value
    else:
        finite = largest < 65520.0
    return tl.reduce((finite == 0).to(tl.int32), None, add)


@triton.jit
def mend(pointers, mask, LIVE: tl.constexpr):
    """Corrects the bits of NaNs stored at `pointers`; returns the number of NaN or infinite values there, int64.
    A barrier must stand between the stores and this."""
    if LIVE == "float32":
        wrong = (tl.abs(tl.load(pointers, mask=mask, other=0.0)) < float("inf")) == 0
    else:
        size = tl.load(pointers, mask=mask, other=0) & 0x7FFF
        if LIVE == "bfloat16":
            infinity = 0x7F80
            tl.store(pointers, 0x7FC0, mask=size > infinity)
        else:
            infinity = 0x7C00
            tl.store(pointers, 0x7E00, mask=size > infinity)
        wrong = size >= infinity
    return tl.reduce(wrong.to(tl.int64), None, add)


@triton.jit
def add(a, b):
    """How partial sums combine."""
    return a + b
