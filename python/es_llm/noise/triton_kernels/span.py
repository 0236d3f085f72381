"""The values and blocks that a program works on.

A slice lies in rows of `columns` values; a run of consecutive elements is one row. A program takes T tiles of B blocks
of one row. Blocks are those of the whole tensor: where a row begins within one, the values before it are masked.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def span(element, stride, columns, programs, VALUES: tl.constexpr, EVEN: tl.constexpr):
    """Program i works on part i % `programs`, of VALUES values, of row i // `programs`.

    Args:
        element: of the slice's first value in the whole tensor; rows begin `stride` elements apart.
        columns: of a row; with EVEN, in units of 16.
        EVEN: all rows begin with a block and have a multiple of 16 values, so that accesses become vectors.

    Returns:
        begin: element of the first value of the part's first block, a multiple of 4.
        offset: index of that value in the slice; before the row if the row begins within the block.
        low, high: values [low, high) counted from there are in the row.
    """
    program = tl.program_id(0)
    row = (program // programs).to(tl.int64)
    first = (program % programs).to(tl.int64) * VALUES
    start = row * stride + element
    if EVEN:
        width = columns.to(tl.int64) * 16
    else:
        width = columns.to(tl.int64)
        first -= start & 3
    return start + first, row * width + first, -first, width - first


@triton.jit
def inside(low, high, t: tl.constexpr, B: tl.constexpr, EVEN: tl.constexpr):
    """(4 B,): True for the values of tile `t` that are in the row."""
    index = tl.arange(0, 4 * B) + t * 4 * B
    if EVEN:
        return index < high
    else:
        return (index >= low) & (index < high)


@triton.jit
def counters(begin, word, t: tl.constexpr, B: tl.constexpr, CARRY: tl.constexpr):
    """c0 (B,) and c1 of the blocks of tile `t`; `begin` is the first element of tile 0, `word` is c1 without the upper
    bits of the block index.

    c1 is a scalar, unless CARRY: then the lower half of the index may overflow within a program.
    """
    block = (begin >> 2) + t * B
    if CARRY:
        blocks = block + tl.arange(0, B)
        return blocks.to(tl.uint32), (blocks >> 32).to(tl.uint32) | word
    else:
        return tl.arange(0, B).to(tl.uint32) + block.to(tl.uint32), (block >> 32).to(tl.uint32) | word
