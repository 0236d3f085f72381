//! The factors of low-rank noise, as the product of [`super::low_rank`] reads them.
//!
//! The pairs of a panel come in chunks. Within a chunk the rows of a factor are in groups, in each group term by term, and in
//! each term row by row.

use std::ops::{Deref, DerefMut, Range};

use super::low_rank::{DEPTH, LowRank, PANEL_COLUMNS, PANEL_ROWS, column_panels};
use super::path::Work;
use super::position::Position;
use super::simd::Simd;
use super::stream::LINE;
use super::tile::{Single, TILE, Tiles};
use crate::noise::{Kind, NoiseAddress, Stream};

/// What the factors of a panel are drawn from.
#[derive(Clone, Copy)]
pub(super) struct Factors<'a> {
    pub matrix: LowRank,
    pub pairs: &'a [u32],
    /// One per pair: see [`super::low_rank::scaled`].
    pub scales: &'a [f32],
    /// The factors, if they are drawn already.
    pub drawn: Option<&'a Drawn>,
}

/// The factors of a whole matrix, laid out for each panel of rows and of columns: its chunks of pairs one after another.
pub(super) struct Drawn {
    pub left: Vec<Lines>,
    pub right: Vec<Lines>,
}

/// Most bytes of factors that are drawn once for all panels.
const DRAWN: usize = 32 << 20;

/// The rows of a factor that belong to a panel.
#[derive(Clone)]
pub(super) struct Side {
    pub kind: Kind,
    pub range: Range<usize>,
}

impl Drawn {
    /// The parts to draw. None if the matrix is one panel, or the factors need too much memory.
    pub fn sides(factors: &Factors<'_>) -> Option<Vec<Side>> {
        let LowRank { shape, rank, .. } = factors.matrix;
        let values = (shape[0] + shape[1]).checked_mul(rank * factors.pairs.len())?;
        let one = shape[0] <= PANEL_ROWS && shape[1] <= PANEL_COLUMNS;
        if one || values > DRAWN / size_of::<f32>() {
            return None;
        }
        let side = |kind| move |range| Side { kind, range };
        let left = factors.matrix.panels().into_iter();
        let right = column_panels(shape[1]).map(side(Kind::LowRankB));
        Some(left.map(side(Kind::LowRankA)).chain(right).collect())
    }

    /// Takes the parts in the order of [`Drawn::sides`].
    pub fn new(factors: &Factors<'_>, mut drawn: Vec<Lines>) -> Self {
        let right = drawn.split_off(factors.matrix.panels().len());
        Self { left: drawn, right }
    }
}

/// Draws one part of [`Drawn`].
pub(super) struct DrawSide<'a> {
    pub factors: Factors<'a>,
    pub side: Side,
}

impl Work for DrawSide<'_> {
    type Output = Lines;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Lines {
        let Self { factors, side } = self;
        let rank = factors.matrix.rank;
        let padded = side.range.len().next_multiple_of(side.width::<S>());
        let mut lines = Lines::new(padded * rank * factors.pairs.len());
        let mut values = vec![0.0; rank * side.range.len()];
        for part in factors.chunks() {
            let block = &mut lines[part.start * rank * padded..];
            factors.draw_side(simd, part, &side, &mut values, block);
        }
        lines
    }
}

impl Side {
    /// Rows of a group in [`Packed`].
    #[inline(always)]
    fn width<S: Simd>(&self) -> usize {
        if self.kind == Kind::LowRankA {
            S::ROWS
        } else {
            2 * S::LANES
        }
    }
}

/// Values that begin at a line of memory: a register that is loaded from two lines takes twice the time.
pub(super) struct Lines {
    values: Vec<f32>,
    first: usize,
}

impl Lines {
    pub fn new(count: usize) -> Self {
        let values = vec![0.0; count + LINE / size_of::<f32>() - 1];
        let first = values.as_ptr().align_offset(LINE);
        Self { values, first }
    }
}

impl Deref for Lines {
    type Target = [f32];

    #[inline(always)]
    fn deref(&self) -> &[f32] {
        &self.values[self.first..]
    }
}

impl DerefMut for Lines {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[self.first..]
    }
}

impl Factors<'_> {
    /// Pairs of a chunk.
    pub fn pairs_at_once(&self) -> usize {
        (DEPTH / self.matrix.rank).clamp(1, self.pairs.len().max(1))
    }

    /// The pairs of each chunk; one empty chunk if there are none.
    pub fn chunks(&self) -> impl ExactSizeIterator<Item = Range<usize>> + use<> {
        let (at_once, pairs) = (self.pairs_at_once(), self.pairs.len());
        (0..pairs.div_ceil(at_once).max(1))
            .map(move |chunk| chunk * at_once..pairs.min((chunk + 1) * at_once))
    }

    /// Draws a part of a factor for some pairs.
    #[inline(always)]
    pub fn draw_side<S: Simd>(
        &self,
        simd: S,
        part: Range<usize>,
        side: &Side,
        values: &mut [f32],
        factors: &mut [f32],
    ) {
        let rank = self.matrix.rank;
        let depth = part.len() * rank;
        let pairs = self.pairs[part.clone()].iter().zip(&self.scales[part]);
        for (i, (&pair, &scale)) in pairs.enumerate() {
            let to = Packed {
                depth,
                term: i * rank,
                width: side.width::<S>(),
                factors: &mut *factors,
            };
            let scale = if side.kind == Kind::LowRankA {
                scale
            } else {
                1.0
            };
            self.draw(simd, side.kind, pair, scale, &side.range, values, to);
        }
    }

    /// One pair's factor, times its scale, for the given rows of the factor.
    #[inline(always)]
    #[allow(clippy::too_many_arguments, reason = "the source and the target")]
    fn draw<S: Simd>(
        &self,
        simd: S,
        kind: Kind,
        pair: u32,
        scale: f32,
        rows: &Range<usize>,
        values: &mut [f32],
        to: Packed<'_>,
    ) {
        let rank = self.matrix.rank;
        let first = self.matrix.first[usize::from(kind == Kind::LowRankB)] + rows.start as u64;
        let position = Position::run(NoiseAddress {
            element: first * rank as u64,
            ..self.matrix.address
        });
        let mut noise = Single::new(simd, self.stream(kind, pair));
        let mut tile = [0.0; TILE];
        for span in Tiles::new(position, 0, rows.len() * rank) {
            noise.tile(&span, &mut tile);
            for (value, normal) in values[span.slice].iter_mut().zip(&tile[span.tile]) {
                *value = scale * normal;
            }
        }
        let Packed {
            depth,
            term,
            width,
            factors,
        } = to;
        for (group, values) in values[..rows.len() * rank].chunks(width * rank).enumerate() {
            let factors = &mut factors[group * width * depth + term * width..];
            if rank == 1 {
                let (filled, rest) = factors[..width].split_at_mut(values.len());
                filled.copy_from_slice(values);
                rest.fill(0.0);
                continue;
            }
            for k in 0..rank {
                let factors = &mut factors[k * width..(k + 1) * width];
                let count = values.len() / rank;
                for (row, factor) in factors[..count].iter_mut().enumerate() {
                    *factor = values[row * rank + k];
                }
                factors[count..].fill(0.0);
            }
        }
    }

    fn stream(&self, kind: Kind, pair: u32) -> Stream {
        let address = NoiseAddress {
            pair,
            element: 0,
            ..self.matrix.address
        };
        address.stream(kind, 0).expect("`check` passed")
    }
}

/// The layout of a pair's factor: groups of `width` rows, in each term by term, in each row by row.
struct Packed<'a> {
    depth: usize,
    term: usize,
    width: usize,
    factors: &'a mut [f32],
}
