//! The update of one chunk: all pairs in one pass over the weights, with its report.

use std::marker::PhantomData;

use super::Terms;
use super::path::Work;
use super::position::Position;
use super::report::UpdateReport;
use super::rounding::LiveType;
use super::simd::{SQUARES, Simd, Squares};
use super::tile::{TILE, Tiles, Weighted};
use crate::noise::Stream;

/// master\[i\] += sum over the pairs, in order, of coefficient * noise(pair) of value `start + i` of the position.
pub(super) struct Accumulate<'a, L> {
    pub stream: Stream,
    pub position: Position,
    pub start: u64,
    pub terms: Terms<'a>,
    pub master: &'a mut [f32],
    pub live: PhantomData<L>,
}

impl<L: LiveType> Work for Accumulate<'_, L> {
    type Output = UpdateReport;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> UpdateReport {
        let mut noise = Weighted::new(simd, self.stream, self.terms);
        let mut sums = [0.0; TILE];
        let mut tally = Tally::default();
        for span in Tiles::new(self.position, self.start, self.master.len()) {
            noise.tile(&span, &mut sums);
            tally.update::<S, L>(simd, &mut self.master[span.slice], &sums[span.tile]);
        }
        tally.report(self.master.len())
    }
}

/// The counts and sums of the report.
#[derive(Default)]
pub(super) struct Tally {
    moved: u64,
    nonfinite: u64,
    squares: Squares,
}

impl Tally {
    /// Adds the sums to the weights and counts the changes; at most [`TILE`] weights.
    #[inline(always)]
    #[allow(
        clippy::float_cmp,
        reason = "any change of the value counts, and only zero is zero"
    )]
    pub fn update<S: Simd, L: LiveType>(&mut self, simd: S, master: &mut [f32], sums: &[f32]) {
        let (mut new, mut changes, mut intended) =
            ([0.0_f32; TILE], [0.0_f32; TILE], [0.0_f32; TILE]);
        let mut counts = [0_u32; 2];
        let len = master.len().min(TILE);
        for i in 0..len {
            let (old, sum) = (master[i], sums[i]);
            // A weight of -0 keeps its sign: -0 + 0 would be +0.
            new[i] = if sum == 0.0 { old } else { old + sum };
            let (before, after) = (L::nearest(old), L::nearest(new[i]));
            let change = after - before;
            let finite = change.abs() < f32::INFINITY;
            changes[i] = if finite { change } else { 0.0 };
            intended[i] = if finite { sum } else { 0.0 };
            // A weight that was NaN before hasn't moved.
            counts[0] += u32::from((before != after) & !before.is_nan());
            counts[1] += u32::from(!after.is_finite());
        }
        // Not in the loop above: the compiler would emit a masked store, which is very slow on some machines.
        master.copy_from_slice(&new[..len]);
        self.moved += u64::from(counts[0]);
        self.nonfinite += u64::from(counts[1]);
        let (intended, rest) = intended[..len].as_chunks();
        let (changes, rest_of_changes) = changes[..len].as_chunks();
        // A local copy keeps the totals in registers.
        let mut squares = self.squares;
        for (intended, changes) in intended.iter().zip(changes) {
            simd.add_squares(intended, changes, &mut squares);
        }
        let (mut intended, mut changes) = ([0.0; SQUARES], [0.0; SQUARES]);
        intended[..rest.len()].copy_from_slice(rest);
        changes[..rest.len()].copy_from_slice(rest_of_changes);
        simd.add_squares(&intended, &changes, &mut squares);
        self.squares = squares;
    }

    #[inline(always)]
    pub fn report(&self, elements: usize) -> UpdateReport {
        let [intended_square, actual_square, product] =
            self.squares.map(|lanes| lanes.iter().sum::<f64>());
        UpdateReport {
            elements: elements as u64,
            moved: self.moved,
            nonfinite: self.nonfinite,
            intended_square,
            actual_square,
            product,
        }
    }
}
