//! Low-rank noise: the perturbation of one pair is A B^T / sqrt(rank), and is never built.
//!
//! A (out x rank) and B (in x rank) each have their own kind of noise; value (row, k) is element row * rank + k. The update
//! of many pairs is one matrix product L B^T: L holds the scaled A of all pairs side by side, B likewise. So each weight
//! is a sum of rank x pairs terms, in order, by a chain of fmas. The work is cut into panels of rows and columns whose
//! factors stay in the cache. Factors that need little memory are drawn once for all panels ([`super::factors::Drawn`]); others are drawn
//! again in each panel, which takes about a third of the time of the product.

use std::marker::PhantomData;
use std::ops::Range;

use super::KernelError;
use super::factors::{Factors, Lines, Side};
use super::path::Work;
use super::report::UpdateReport;
use super::rounding::LiveType;
use super::simd::Simd;
use super::stream::{TO_READ, TO_WRITE, fetch};
use super::tile::TILE;
use super::update::Tally;
use super::weights::write;
use crate::noise::{Kind, NoiseAddress};

/// Largest rank.
pub const MAX_RANK: usize = 1024;

/// Rows of a panel: the unit of work of one thread.
pub(super) const PANEL_ROWS: usize = 240;
pub(super) const PANEL_COLUMNS: usize = 1024;
/// Distance between two rows of sums: one line more than the columns, so that rows don't share a set of the cache.
const STRIDE: usize = PANEL_COLUMNS + 16;
/// Number of terms that are drawn at once, about.
pub(super) const DEPTH: usize = 128;
/// Rows that are summed in registers at once ([`Simd::ROWS`]) if there are 32 registers; the columns fill two of them.
pub(super) const MOST_ROWS: usize = 12;
/// The same with sixteen registers.
pub(super) const FEW_ROWS: usize = 6;

/// A block of a weight matrix, row by row, and the low-rank noise of the whole matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LowRank {
    /// The address of the noise. An update ignores its `pair`; `element` is always ignored.
    pub address: NoiseAddress,
    /// Columns of A and of B; 1 to [`MAX_RANK`].
    pub rank: usize,
    /// The block's first row and column in the whole matrix.
    pub first: [u64; 2],
    /// The block's rows and columns.
    pub shape: [usize; 2],
}

/// The factor of one pair's A: s = 1 / sqrt(f32(rank)), then `factor` * s, each step rounded to f32.
pub(super) fn scaled(factor: f32, rank: usize) -> f32 {
    factor * (1.0 / (rank as f32).sqrt())
}

impl LowRank {
    /// Checks that the block has `values` values and that its factors have addresses.
    ///
    /// # Errors
    /// [`KernelError::Rank`], [`KernelError::Shape`], [`KernelError::Address`].
    pub fn check(&self, values: usize) -> Result<(), KernelError> {
        if !(1..=MAX_RANK).contains(&self.rank) {
            return Err(KernelError::Rank(self.rank));
        }
        if self.shape[0].checked_mul(self.shape[1]) != Some(values) {
            return Err(KernelError::Shape {
                rows: self.shape[0],
                columns: self.shape[1],
                values,
            });
        }
        for (kind, first, count) in [
            (Kind::LowRankA, self.first[0], self.shape[0]),
            (Kind::LowRankB, self.first[1], self.shape[1]),
        ] {
            let address = NoiseAddress {
                element: first.saturating_mul(self.rank as u64),
                ..self.address
            };
            address.stream(kind, count.saturating_mul(self.rank))?;
        }
        Ok(())
    }

    /// The part of the slice of each panel.
    pub(super) fn cuts(&self) -> Vec<Range<usize>> {
        let width = self.shape[1];
        let part = |rows: Range<usize>| rows.start * width..rows.end * width;
        self.panels().into_iter().map(part).collect()
    }

    /// The rows of each panel.
    pub(super) fn panels(&self) -> Vec<Range<usize>> {
        let rows = self.shape[0];
        (0..rows)
            .step_by(PANEL_ROWS)
            .map(|start| start..rows.min(start + PANEL_ROWS))
            .collect()
    }
}

/// Space for the factors of a panel and for its sums.
struct Panel {
    values: Vec<f32>,
    left: Lines,
    right: Lines,
    sums: Lines,
}

impl Factors<'_> {
    fn panel(&self, rows: usize) -> Panel {
        // One chunk of pairs needs the sums of a few rows only: see `sum`.
        let rows = if self.chunks().len() == 1 {
            MOST_ROWS
        } else {
            rows
        };
        let depth = match self.drawn {
            None => self.pairs_at_once() * self.matrix.rank,
            Some(_) => 0,
        };
        Panel {
            values: vec![0.0; self.matrix.rank * PANEL_COLUMNS],
            left: Lines::new(depth * PANEL_ROWS),
            right: Lines::new(depth * PANEL_COLUMNS),
            sums: Lines::new(rows.next_multiple_of(MOST_ROWS) * STRIDE),
        }
    }

    /// Computes the sums of a panel: for each weight the chain of fma(L, B, sum) over all terms, from 0.
    #[inline(always)]
    fn sum<S: Simd>(
        &self,
        simd: S,
        rows: &Range<usize>,
        columns: &Range<usize>,
        panel: &mut Panel,
        target: &mut impl Target,
    ) {
        let rank = self.matrix.rank;
        let padded = [
            rows.len().next_multiple_of(S::ROWS),
            columns.len().next_multiple_of(2 * S::LANES),
        ];
        let chunks = self.chunks().len();
        for (chunk, part) in self.chunks().enumerate() {
            let (depth, first) = (part.len() * rank, part.start * rank);
            let (left, right) = if let Some(drawn) = self.drawn {
                (
                    &drawn.left[rows.start / PANEL_ROWS][first * padded[0]..],
                    &drawn.right[columns.start / PANEL_COLUMNS][first * padded[1]..],
                )
            } else {
                self.draw_both(simd, &part, rows, columns, panel);
                (&*panel.left, &*panel.right)
            };
            let left = |row: usize| &left[row * depth..(row + S::ROWS) * depth];
            let right = |column: usize| &right[column * depth..(column + 2 * S::LANES) * depth];
            let from_zero = chunk == 0;
            if chunk + 1 < chunks {
                for column in (0..columns.len()).step_by(2 * S::LANES) {
                    for row in (0..rows.len()).step_by(S::ROWS) {
                        let sums = &mut panel.sums[row * STRIDE + column..];
                        multiply(simd, left(row), right(column), from_zero, sums);
                    }
                }
                continue;
            }
            // The sums of a few rows are used as soon as they are complete.
            for row in (0..rows.len()).step_by(S::ROWS) {
                let first = if from_zero { 0 } else { row };
                let sums = &mut panel.sums[first * STRIDE..][..S::ROWS * STRIDE];
                for column in (0..columns.len()).step_by(2 * S::LANES) {
                    target.soon::<S>(row, columns.start + column);
                    multiply(
                        simd,
                        left(row),
                        right(column),
                        from_zero,
                        &mut sums[column..],
                    );
                }
                target.take(simd, row, columns, sums);
            }
        }
    }

    /// Draws both factors of some pairs into the panel.
    #[inline(always)]
    fn draw_both<S: Simd>(
        &self,
        simd: S,
        part: &Range<usize>,
        rows: &Range<usize>,
        columns: &Range<usize>,
        panel: &mut Panel,
    ) {
        let Panel {
            values,
            left,
            right,
            ..
        } = panel;
        for (kind, range, factors) in [
            (Kind::LowRankA, rows, left),
            (Kind::LowRankB, columns, right),
        ] {
            let range = range.clone();
            let side = Side { kind, range };
            self.draw_side(simd, part.clone(), &side, values, factors);
        }
    }
}

/// The weights that the sums of a panel are for.
trait Target {
    /// Two registers of columns of the next [`Simd::ROWS`] rows will soon be taken.
    fn soon<S: Simd>(&self, row: usize, column: usize);
    /// Takes the sums of [`Simd::ROWS`] rows, of which the last may not exist; rows of sums are [`STRIDE`] apart.
    fn take<S: Simd>(&mut self, simd: S, row: usize, columns: &Range<usize>, sums: &[f32]);
}

/// sums += left right^T, or sums = left right^T, term by term, for [`Simd::ROWS`] rows and two registers of columns.
#[inline(always)]
fn multiply<S: Simd>(simd: S, left: &[f32], right: &[f32], from_zero: bool, sums: &mut [f32]) {
    if S::ROWS == MOST_ROWS {
        multiply_rows::<S, MOST_ROWS>(simd, left, right, from_zero, sums);
    } else {
        multiply_rows::<S, FEW_ROWS>(simd, left, right, from_zero, sums);
    }
}

/// As [`multiply`], with the number of rows as a constant, so that the sums stay in registers.
#[inline(always)]
fn multiply_rows<S: Simd, const ROWS: usize>(
    simd: S,
    left: &[f32],
    right: &[f32],
    from_zero: bool,
    sums: &mut [f32],
) {
    let mut tile = [[simd.float(0.0); 2]; ROWS];
    if !from_zero {
        for (row, tile) in tile.iter_mut().enumerate() {
            let sums = &sums[row * STRIDE..][..2 * S::LANES];
            *tile = [simd.load(sums), simd.load(&sums[S::LANES..])];
        }
    }
    let next_columns = right.len();
    for (left, right) in left
        .as_chunks::<ROWS>()
        .0
        .iter()
        .zip(right.chunks_exact(2 * S::LANES))
    {
        fetch::<TO_READ, _>(right.as_ptr().wrapping_add(next_columns), right.len());
        let right = [simd.load(right), simd.load(&right[S::LANES..])];
        for (tile, left) in tile.iter_mut().zip(left) {
            let left = simd.float(*left);
            for (sum, right) in tile.iter_mut().zip(right) {
                *sum = simd.fma(left, right, *sum);
            }
        }
    }
    for (row, tile) in tile.iter().enumerate() {
        let sums = &mut sums[row * STRIDE..][..2 * S::LANES];
        simd.store(tile[0], sums);
        simd.store(tile[1], &mut sums[S::LANES..]);
    }
}

/// The columns of each panel.
pub(super) fn column_panels(columns: usize) -> impl Iterator<Item = Range<usize>> {
    (0..columns)
        .step_by(PANEL_COLUMNS)
        .map(move |start| start..columns.min(start + PANEL_COLUMNS))
}

/// master += L B^T for a panel of rows.
pub(super) struct AccumulateLowRank<'a, L> {
    pub factors: Factors<'a>,
    pub rows: Range<usize>,
    pub master: &'a mut [f32],
    pub live: PhantomData<L>,
}

impl<L: LiveType> Work for AccumulateLowRank<'_, L> {
    type Output = UpdateReport;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> UpdateReport {
        let width = self.factors.matrix.shape[1];
        let mut panel = self.factors.panel(self.rows.len());
        let elements = self.master.len();
        let mut target = Added::<L> {
            master: self.master,
            width,
            tally: Tally::default(),
            live: PhantomData,
        };
        for columns in column_panels(width) {
            self.factors
                .sum(simd, &self.rows, &columns, &mut panel, &mut target);
        }
        target.tally.report(elements)
    }
}

/// The masters of a panel of rows, to which the sums are added.
struct Added<'a, L> {
    master: &'a mut [f32],
    width: usize,
    tally: Tally,
    live: PhantomData<L>,
}

impl<L: LiveType> Target for Added<'_, L> {
    #[inline(always)]
    fn soon<S: Simd>(&self, row: usize, column: usize) {
        for row in row..row + S::ROWS {
            let first = self.master.as_ptr().wrapping_add(row * self.width + column);
            fetch::<TO_WRITE, _>(first, 2 * S::LANES);
        }
    }

    #[inline(always)]
    fn take<S: Simd>(&mut self, simd: S, row: usize, columns: &Range<usize>, sums: &[f32]) {
        let masters = self.master[row * self.width..].chunks_mut(self.width);
        for (master, sums) in masters.zip(sums.chunks(STRIDE)) {
            let masters = master[columns.clone()].chunks_mut(TILE);
            for (master, sums) in masters.zip(sums.chunks(TILE)) {
                self.tally
                    .update::<S, L>(simd, master, &sums[..master.len()]);
            }
        }
    }
}

/// live = round(master + L B^T) for a panel of rows; returns the number of live values that aren't finite.
pub(super) struct PerturbLowRank<'a, L: LiveType> {
    pub factors: Factors<'a>,
    pub rows: Range<usize>,
    pub live: &'a mut [L::Bits],
    pub master: &'a [f32],
}

impl<L: LiveType> Work for PerturbLowRank<'_, L> {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u64 {
        let width = self.factors.matrix.shape[1];
        let mut panel = self.factors.panel(self.rows.len());
        let mut target = Written::<L> {
            live: self.live,
            master: self.master,
            width,
            nonfinite: 0,
        };
        for columns in column_panels(width) {
            self.factors
                .sum(simd, &self.rows, &columns, &mut panel, &mut target);
        }
        target.nonfinite
    }
}

/// The live weights of a panel of rows, which become round(master + sum).
struct Written<'a, L: LiveType> {
    live: &'a mut [L::Bits],
    master: &'a [f32],
    width: usize,
    nonfinite: u64,
}

impl<L: LiveType> Target for Written<'_, L> {
    #[inline(always)]
    fn soon<S: Simd>(&self, row: usize, column: usize) {
        for row in row..row + S::ROWS {
            let first = row * self.width + column;
            fetch::<TO_READ, _>(self.master.as_ptr().wrapping_add(first), 2 * S::LANES);
            fetch::<TO_WRITE, _>(self.live.as_ptr().wrapping_add(first), 2 * S::LANES);
        }
    }

    #[inline(always)]
    fn take<S: Simd>(&mut self, _: S, row: usize, columns: &Range<usize>, sums: &[f32]) {
        let first = row * self.width;
        let masters = self.master[first..].chunks(self.width);
        let rows = self.live[first..].chunks_mut(self.width).zip(masters);
        for ((live, master), sums) in rows.zip(sums.chunks(STRIDE)) {
            let (live, master) = (&mut live[columns.clone()], &master[columns.clone()]);
            self.nonfinite += write::<L>(live, master, |i, master| master + sums[i]);
        }
    }
}
