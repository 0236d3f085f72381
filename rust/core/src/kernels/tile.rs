//! Tiles: the values that a kernel works on between two accesses to memory. A tile fits into the first-level cache.

use std::hint::black_box;
use std::ops::Range;

use super::Terms;
use super::normals::{BlockWords, Constants, PairWords};
use super::position::Position;
use super::simd::Simd;
use crate::noise::Stream;

const BLOCKS: u64 = 64;

/// Elements per tile; a multiple of every instruction set's group.
pub(super) const TILE: usize = 4 * BLOCKS as usize;

/// The part of a tile that is in a slice.
pub(super) struct Span {
    /// First block of the tile.
    pub block: u64,
    /// Part of the slice.
    pub slice: Range<usize>,
    /// Part of the tile; as long as `slice`.
    pub tile: Range<usize>,
}

/// The tiles that cover the values `start..start + len` of a position; tiles start at multiples of [`TILE`] elements.
pub(super) struct Tiles {
    position: Position,
    start: u64,
    done: usize,
    len: usize,
}

impl Tiles {
    #[inline(always)]
    pub fn new(position: Position, start: u64, len: usize) -> Self {
        Self {
            position,
            start,
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
        let (element, row_left) = self.position.element_at(self.start + self.done as u64);
        let skip = (element % TILE as u64) as usize;
        let count = (TILE - skip)
            .min(self.len - self.done)
            .min(usize::try_from(row_left).unwrap_or(usize::MAX));
        let slice = self.done..self.done + count;
        self.done = slice.end;
        Some(Span {
            block: (element - skip as u64) / 4,
            slice,
            tile: skip..skip + count,
        })
    }
}

/// The groups of a tile that hold the values `part`: (first block within the tile, values within the tile).
#[inline(always)]
fn groups<S: Simd>(part: &Range<usize>) -> impl Iterator<Item = (u64, Range<usize>)> + use<S> {
    let size = 4 * S::LANES;
    (part.start / size..part.end.div_ceil(size))
        .map(move |group| ((group * S::LANES) as u64, group * size..(group + 1) * size))
}

/// One stream of noise, tile by tile.
pub(super) struct Single<S: Simd> {
    simd: S,
    constants: Constants<S>,
    stream: Stream,
    high: u32,
    pair: PairWords,
    /// The words of the block `ready`, computed ahead: see [`BlockWords::normals_and_words`].
    words: [S::Ints; 4],
    ready: u64,
}

impl<S: Simd> Single<S> {
    #[inline(always)]
    pub fn new(simd: S, stream: Stream) -> Self {
        Self {
            simd,
            constants: Constants::new(simd, &stream),
            stream,
            high: 0,
            pair: PairWords::new(&stream, 0),
            words: [simd.int(0); 4],
            ready: NOTHING,
        }
    }

    /// The noise of a tile, at least where the span needs it.
    #[inline(always)]
    pub fn tile(&mut self, span: &Span, out: &mut [f32; TILE]) {
        let (simd, high) = (self.simd, (span.block >> 32) as u32);
        if self.high != high {
            self.high = high;
            self.pair = PairWords::new(&self.stream, high);
        }
        let constants = black_box(&self.constants);
        for (block, values) in groups::<S>(&span.tile) {
            let block = span.block + block;
            if self.ready != block {
                let first = BlockWords::new(simd, constants, block as u32);
                self.words = first.words(simd, constants, &self.pair);
            }
            let next = block + S::LANES as u64;
            let ahead = BlockWords::new(simd, constants, next as u32);
            let normals;
            (normals, self.words) =
                ahead.normals_and_words(simd, constants, &self.pair, self.words);
            self.ready = if same_high(block, next) {
                next
            } else {
                NOTHING
            };
            simd.interleave(normals, &mut out[values]);
        }
    }
}

/// A sum over many pairs of coefficient * noise, tile by tile: the noise never leaves the registers.
pub(super) struct Weighted<'a, S: Simd> {
    simd: S,
    constants: Constants<S>,
    stream: Stream,
    high: u32,
    terms: Terms<'a>,
    /// The words and the coefficient of each pair.
    pairs: Vec<(PairWords, f32)>,
    /// The first two rounds of the block `ready`, and its words for the first pair.
    blocks: BlockWords<S>,
    words: [S::Ints; 4],
    ready: u64,
}

impl<'a, S: Simd> Weighted<'a, S> {
    #[inline(always)]
    pub fn new(simd: S, stream: Stream, terms: Terms<'a>) -> Self {
        let constants = Constants::new(simd, &stream);
        let mut new = Self {
            simd,
            blocks: BlockWords::new(simd, &constants, 0),
            constants,
            stream,
            high: 0,
            terms,
            pairs: Vec::with_capacity(terms.pairs.len()),
            words: [simd.int(0); 4],
            ready: NOTHING,
        };
        new.compute_pairs();
        new
    }

    #[inline(always)]
    fn compute_pairs(&mut self) {
        self.pairs.clear();
        for (pair, coefficient) in self.terms.pairs.iter().zip(self.terms.coefficients) {
            let stream = Stream {
                pair: *pair,
                ..self.stream
            };
            self.pairs
                .push((PairWords::new(&stream, self.high), *coefficient));
        }
    }

    /// `acc = 0; for each pair in order: acc = fma(coefficient, noise, acc)`, at least where the span needs it.
    #[inline(always)]
    pub fn tile(&mut self, span: &Span, out: &mut [f32; TILE]) {
        let (simd, high) = (self.simd, (span.block >> 32) as u32);
        if self.high != high {
            self.high = high;
            self.compute_pairs();
        }
        let constants = black_box(&self.constants);
        let Some((first, _)) = self.pairs.first() else {
            out.fill(0.0);
            return;
        };
        for (block, values) in groups::<S>(&span.tile) {
            let block = span.block + block;
            if self.ready != block {
                self.blocks = BlockWords::new(simd, constants, block as u32);
                self.words = self.blocks.words(simd, constants, first);
            }
            let mut sums = [simd.float(0.0); 4];
            let (blocks, mut words) = (self.blocks, self.words);
            for i in 0..self.pairs.len() - 1 {
                let ((_, coefficient), (next, _)) = (&self.pairs[i], &self.pairs[i + 1]);
                let normals;
                (normals, words) = blocks.normals_and_words(simd, constants, next, words);
                add_scaled(simd, &mut sums, *coefficient, normals);
            }
            let next = block + S::LANES as u64;
            let normals;
            self.blocks = BlockWords::new(simd, constants, next as u32);
            (normals, self.words) = self.blocks.normals_and_words(simd, constants, first, words);
            self.ready = if same_high(block, next) {
                next
            } else {
                NOTHING
            };
            add_scaled(simd, &mut sums, self.pairs[self.pairs.len() - 1].1, normals);
            simd.interleave(sums, &mut out[values]);
        }
    }
}

/// No block is ready.
const NOTHING: u64 = u64::MAX;

/// Whether the words of a pair are the same for both blocks.
#[inline(always)]
fn same_high(block: u64, other: u64) -> bool {
    block >> 32 == other >> 32
}

#[inline(always)]
fn add_scaled<S: Simd>(
    simd: S,
    sums: &mut [S::Floats; 4],
    coefficient: f32,
    normals: [S::Floats; 4],
) {
    let coefficient = simd.float(coefficient);
    for (sum, normal) in sums.iter_mut().zip(normals) {
        *sum = simd.fma(coefficient, normal, *sum);
    }
}
