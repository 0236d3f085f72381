"""Kernels of low-rank noise in the rows of a batch: y + s (x B) A^T, where each row has its own A, B and s.

A program works on some tokens of one row, so it needs the factors of one pair, and programs of the same pair find them
in the caches. Sums are float32, in an order that depends on the shapes alone.

Legend: B rows, T tokens of a program, K values of a line that are summed at once, W columns of a program, P pairs,
R rank.
"""

from __future__ import annotations

import triton
import triton.language as tl

from es_llm.noise.triton_kernels.rounding import add, converted

_SCALARS = ["tokens", "width", "rank", "first", "length"]


@triton.jit(do_not_specialize=_SCALARS)
def project(
    out,
    x,
    factor,
    pairs,
    scales,
    tokens: tl.int64,
    width: tl.int64,
    rank: tl.int32,
    LIVE: tl.constexpr,
    T: tl.constexpr,
    K: tl.constexpr,
):
    """out (B, tokens, R) = s x factor[pair]^T, with x (B, tokens, width) and factor (P, R, width)."""
    row = tl.program_id(0).to(tl.int64)
    t = tl.program_id(1).to(tl.int64) * T + tl.arange(0, T)
    line = row * tokens + t
    pair = tl.load(pairs + row)
    scale = tl.load(scales + row)
    for k in range(rank):
        factors = factor + (pair * rank + k) * width
        acc = tl.full((T, K), 0.0, tl.float32)
        for start in range(0, width, K):
            i = start + tl.arange(0, K)
            f = tl.load(factors + i, mask=i < width, other=0.0)
            mask = (t < tokens)[:, None] & (i < width)[None, :]
            values = _widened(tl.load(x + line[:, None] * width + i[None, :], mask=mask, other=0), LIVE)
            acc = tl.fma(values, tl.broadcast_to(f[None, :], (T, K)), acc)
        tl.store(out + line * rank + k, scale * tl.reduce(acc, 1, add), mask=t < tokens)


@triton.jit(do_not_specialize=_SCALARS)
def expand(
    y,
    products,
    factor,
    pairs,
    tokens: tl.int64,
    width: tl.int64,
    rank: tl.int32,
    first: tl.int64,
    length: tl.int64,
    LIVE: tl.constexpr,
    T: tl.constexpr,
    W: tl.constexpr,
):
    """y (B, tokens, width) += products factor[pair], with products (B, tokens, R) and columns `first`, ... of factor
    (P, R, length); rounded once."""
    row = tl.program_id(0).to(tl.int64)
    t = tl.program_id(1).to(tl.int64) * T + tl.arange(0, T)
    i = tl.program_id(2).to(tl.int64) * W + tl.arange(0, W)
    line = row * tokens + t
    pair = tl.load(pairs + row)
    acc = tl.full((T, W), 0.0, tl.float32)
    for k in range(rank):
        p = tl.load(products + line * rank + k, mask=t < tokens, other=0.0)
        f = tl.load(factor + (pair * rank + k) * length + first + i, mask=i < width, other=0.0)
        acc = tl.fma(tl.broadcast_to(p[:, None], (T, W)), tl.broadcast_to(f[None, :], (T, W)), acc)
    mask = (t < tokens)[:, None] & (i < width)[None, :]
    at = line[:, None] * width + i[None, :]
    tl.store(y + at, converted(_widened(tl.load(y + at, mask=mask, other=0), LIVE) + acc, LIVE), mask=mask)


@triton.jit(do_not_specialize=_SCALARS)
def embed(
    y,
    ids,
    left,
    right,
    pairs,
    scales,
    tokens: tl.int64,
    width: tl.int64,
    rank: tl.int32,
    length: tl.int64,
    LIVE: tl.constexpr,
    W: tl.constexpr,
):
    """y (B, tokens, width) += s A[id] B^T, with ids (B, tokens), left (P, R, length) of A and right (P, R, width) of B;
    rounded once. One program per token and W columns."""
    line = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1).to(tl.int64) * W + tl.arange(0, W)
    row = line // tokens
    pair = tl.load(pairs + row)
    scale = tl.load(scales + row)
    token = tl.load(ids + line)
    acc = tl.full((W,), 0.0, tl.float32)
    for k in range(rank):
        a = scale * tl.load(left + (pair * rank + k) * length + token)
        f = tl.load(right + (pair * rank + k) * width + i, mask=i < width, other=0.0)
        acc = tl.fma(tl.broadcast_to(a, (W,)), f, acc)
    at = line * width + i
    mask = i < width
    tl.store(y + at, converted(_widened(tl.load(y + at, mask=mask, other=0), LIVE) + acc, LIVE), mask=mask)


@triton.jit
def _widened(stored, LIVE: tl.constexpr):
    """Stored values as f32, see `rounding`."""
    if LIVE == "float32":
        return stored
    elif LIVE == "bfloat16":
        return stored.to(tl.bfloat16, bitcast=True).to(tl.float32)
    else:
        return stored.to(tl.float16, bitcast=True).to(tl.float32)
