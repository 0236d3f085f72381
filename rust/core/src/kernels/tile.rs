//! The noise of one tile, 64 blocks at once, in loops that the compiler vectorises.
//!
//! Equal to [`Stream::block`](crate::noise::Stream::block) block by block. What makes it fast: Philox's words lie in
//! 64-bit lanes whose upper halves hold leftovers, so that a product needs no shuffle; words are kept apart from blocks
//! (structure of arrays) in L1 between the two loops, because they want lanes of different width.
#![allow(
    clippy::inline_always,
    reason = "compiled into the kernels of every instruction set"
)]

use std::ops::Range;

use crate::noise::{KEY_STEP, MULTIPLIERS, ROUNDS, Stream, bits};

const BLOCKS: usize = 64;

/// Elements per tile.
pub(super) const TILE: usize = 4 * BLOCKS;

/// Where a tile meets a slice.
pub(super) struct Span {
    /// First block of the tile.
    pub block: u64,
    /// Part of the slice.
    pub slice: Range<usize>,
    /// Part of the tile; as long as `slice`.
    pub tile: Range<usize>,
}

/// The tiles that cover a slice of `len` elements, its first at absolute `element`; tiles start at multiples of [`TILE`].
pub(super) struct Tiles {
    element: u64,
    done: usize,
    len: usize,
}

impl Tiles {
    #[inline(always)]
    pub fn new(element: u64, len: usize) -> Self {
        Self {
            element,
            done: 0,
            len,
        }
    }
}

impl Iterator for Tiles {
    type Item = Span;

    #[inline(always)]
    fn next(&mut self) -> Option<Span> {
        if self.done == self.len {
            return None;
        }
        let element = self.element + self.done as u64;
        let skip = (element % TILE as u64) as usize;
        let count = (TILE - skip).min(self.len - self.done);
        let slice = self.done..self.done + count;
        self.done = slice.end;
        Some(Span {
            block: (element - skip as u64) / 4,
            slice,
            tile: skip..skip + count,
        })
    }
}

/// The noise of the blocks `first..first + 64`.
#[inline(always)]
pub(super) fn noise(stream: &Stream, first: u64, out: &mut [f32; TILE]) {
    let mut words = [[0_u32; BLOCKS]; 4];
    philox(stream, first, &mut words);
    let [w0, w1, w2, w3] = &words;
    for i in 0..BLOCKS {
        (out[4 * i], out[4 * i + 1]) = box_muller(w0[i], w1[i]);
        (out[4 * i + 2], out[4 * i + 3]) = box_muller(w2[i], w3[i]);
    }
}

/// As [`crate::noise::philox4x32`]; only the lower half of c0..c3 counts.
#[inline(always)]
fn philox(stream: &Stream, first: u64, words: &mut [[u32; BLOCKS]; 4]) {
    const LOW: u64 = 0xffff_ffff;
    let [w0, w1, w2, w3] = words;
    for i in 0..BLOCKS {
        let block = first + i as u64;
        let (mut c0, mut c1) = (block, u64::from(stream.high) | (block >> 32));
        let (mut c2, mut c3) = (u64::from(stream.pair), u64::from(stream.iteration));
        let [mut k0, mut k1] = stream.key;
        for _ in 0..ROUNDS {
            let p0 = (c0 & LOW) * u64::from(MULTIPLIERS[0]);
            let p1 = (c2 & LOW) * u64::from(MULTIPLIERS[1]);
            (c0, c1) = ((p1 >> 32) ^ c1 ^ u64::from(k0), p1);
            (c2, c3) = ((p0 >> 32) ^ c3 ^ u64::from(k1), p0);
            k0 = k0.wrapping_add(KEY_STEP[0]);
            k1 = k1.wrapping_add(KEY_STEP[1]);
        }
        (w0[i], w1[i], w2[i], w3[i]) = (c0 as u32, c1 as u32, c2 as u32, c3 as u32);
    }
}

/// As in `noise/normal.rs`, step by step.
#[inline(always)]
fn box_muller(w0: u32, w1: u32) -> (f32, f32) {
    let r = minus_two_ln(w0).sqrt();
    let x = w1.cast_signed() as f32 * (1.0 / 2_147_483_648.0);
    let z = x * x;
    let cosine = r * polynomial(bits::COS, z);
    (
        (r * x) * polynomial(bits::SIN, z),
        f32::from_bits(cosine.to_bits() ^ (w0 & 0x8000_0000)),
    )
}

#[allow(clippy::many_single_char_names, reason = "the formula's own")]
#[inline(always)]
fn minus_two_ln(w: u32) -> f32 {
    let m = ((w & 0x7fff_ffff) | 1).cast_signed() as f32;
    let a = m.to_bits().wrapping_sub(bits::SPLIT);
    let k = (a.cast_signed() >> 23) as f32;
    let t = f32::from_bits((a & 0x007f_ffff) + bits::THREE_QUARTERS) - 1.0;
    t.mul_add(polynomial(bits::LOG, t), k * f32::from_bits(bits::OCTAVE))
}

#[inline(always)]
fn polynomial<const N: usize>(coefficients: [u32; N], t: f32) -> f32 {
    let mut sum = f32::from_bits(coefficients[N - 1]);
    for c in coefficients[..N - 1].iter().rev() {
        sum = sum.mul_add(t, f32::from_bits(*c));
    }
    sum
}
