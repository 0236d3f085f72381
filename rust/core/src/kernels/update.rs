//! The update of one chunk: all pairs in one pass over the weights, with its report.
#![allow(
    clippy::inline_always,
    reason = "compiled into the kernels of every instruction set"
)]

use std::marker::PhantomData;

use super::path::Work;
use super::report::UpdateReport;
use super::rounding::LiveType;
use super::tile::{TILE, Tiles, noise};
use crate::noise::Stream;

/// master\[i\] += sum over the pairs, in order, of coefficient * noise(pair, element + i).
pub(super) struct Accumulate<'a, L> {
    stream: Stream,
    element: u64,
    pairs: &'a [u32],
    coefficients: &'a [f32],
    master: &'a mut [f32],
    live: PhantomData<L>,
}

impl<'a, L> Accumulate<'a, L> {
    pub fn new(
        stream: Stream,
        element: u64,
        pairs: &'a [u32],
        coefficients: &'a [f32],
        master: &'a mut [f32],
    ) -> Self {
        Self {
            stream,
            element,
            pairs,
            coefficients,
            master,
            live: PhantomData,
        }
    }
}

impl<L: LiveType> Work for Accumulate<'_, L> {
    type Output = UpdateReport;

    #[inline(always)]
    fn run(self) -> UpdateReport {
        let mut values = [0.0; TILE];
        let mut tally = Tally::default();
        for span in Tiles::new(self.element, self.master.len()) {
            let mut sums = [0.0_f32; TILE];
            for (pair, coefficient) in self.pairs.iter().zip(self.coefficients) {
                noise(
                    &Stream {
                        pair: *pair,
                        ..self.stream
                    },
                    span.block,
                    &mut values,
                );
                for (sum, value) in sums.iter_mut().zip(&values) {
                    *sum = coefficient.mul_add(*value, *sum);
                }
            }
            tally.update::<L>(&mut self.master[span.slice], &sums[span.tile]);
        }
        tally.report(self.master.len())
    }
}

/// Partial sums of the report in [`LANES`] lanes, so that they vectorise without a change of order.
#[derive(Default)]
struct Tally {
    moved: u64,
    nonfinite: u64,
    intended: [f64; LANES],
    actual: [f64; LANES],
    product: [f64; LANES],
}

const LANES: usize = 8;

impl Tally {
    /// Adds the sums to the weights, and both to the tally: f32 first, then f64, in loops of one width each.
    #[inline(always)]
    #[allow(clippy::float_cmp, reason = "moved means any change, and zero is zero")]
    fn update<L: LiveType>(&mut self, master: &mut [f32], sums: &[f32]) {
        let (mut before, mut after) = ([0.0_f32; TILE], [0.0_f32; TILE]);
        let mut counts = [0_u32; 2];
        for i in 0..master.len().min(sums.len()).min(TILE) {
            let old = master[i];
            // A select, not a branch: -0 + 0 = +0 would change a weight that nothing moves.
            let new = if sums[i] == 0.0 { old } else { old + sums[i] };
            master[i] = new;
            (before[i], after[i]) = (L::nearest(old), L::nearest(new));
            counts[0] += u32::from(before[i] != after[i]);
            counts[1] += u32::from(!new.is_finite());
        }
        self.moved += u64::from(counts[0]);
        self.nonfinite += u64::from(counts[1]);
        let (whole, rest) = sums.as_chunks::<LANES>();
        for (i, sums) in whole.iter().enumerate() {
            for lane in 0..LANES {
                self.one(
                    lane,
                    sums[lane],
                    before[LANES * i + lane],
                    after[LANES * i + lane],
                );
            }
        }
        let done = sums.len() - rest.len();
        for (lane, sum) in rest.iter().enumerate() {
            self.one(lane, *sum, before[done + lane], after[done + lane]);
        }
    }

    #[inline(always)]
    fn one(&mut self, lane: usize, sum: f32, before: f32, after: f32) {
        let (intended, actual) = (f64::from(sum), f64::from(after) - f64::from(before));
        self.intended[lane] += intended * intended;
        self.actual[lane] += actual * actual;
        self.product[lane] += intended * actual;
    }

    #[inline(always)]
    fn report(&self, elements: usize) -> UpdateReport {
        UpdateReport {
            elements: elements as u64,
            moved: self.moved,
            nonfinite: self.nonfinite,
            intended_square: self.intended.iter().sum(),
            actual_square: self.actual.iter().sum(),
            product: self.product.iter().sum(),
        }
    }
}
