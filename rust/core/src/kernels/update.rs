//! The update of one chunk: all pairs in one pass over the weights, with its report; and the report of another update.

use std::marker::PhantomData;

use super::chunks::CHUNK;
use super::path::Work;
use super::position::Position;
use super::report::UpdateReport;
use super::rounding::{INFINITY, LiveType};
use super::simd::{SQUARES, Simd, Squares};
use super::tile::{TILE, Tiles, Weighted};
use super::{Bf16, Dtype, F16, F32, KernelError, Kernels, Terms, pool};
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

impl Kernels {
    /// The report of an update of weights that an optimizer has made, which has a pass of its own. The live weights are of
    /// the type `dtype`. `before` and `after` have the same length.
    ///
    /// # Errors
    /// [`KernelError::Batch`] for slices of different lengths, [`KernelError::Threads`].
    pub fn compare(
        self,
        before: &[f32],
        after: &[f32],
        dtype: Dtype,
    ) -> Result<UpdateReport, KernelError> {
        match dtype {
            Dtype::F32 => self.compare_as::<F32>(before, after),
            Dtype::Bf16 => self.compare_as::<Bf16>(before, after),
            Dtype::F16 => self.compare_as::<F16>(before, after),
        }
    }

    fn compare_as<L: LiveType>(
        self,
        before: &[f32],
        after: &[f32],
    ) -> Result<UpdateReport, KernelError> {
        if before.len() != after.len() {
            return Err(KernelError::Batch(format!(
                "`before` and `after` must have the same number of values, got {} and {}",
                before.len(),
                after.len()
            )));
        }
        let chunks = before.chunks(CHUNK).zip(after.chunks(CHUNK)).collect();
        let work = |(before, after)| {
            self.path.run(Compare {
                before,
                after,
                live: PhantomData::<L>,
            })
        };
        Ok(pool::map(chunks, work)?.into_iter().sum())
    }
}

/// The report of one chunk of weights before and after an update.
struct Compare<'a, L> {
    before: &'a [f32],
    after: &'a [f32],
    live: PhantomData<L>,
}

impl<L: LiveType> Work for Compare<'_, L> {
    type Output = UpdateReport;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> UpdateReport {
        let mut tally = Tally::default();
        for (before, after) in self.before.chunks(TILE).zip(self.after.chunks(TILE)) {
            tally.compare::<S, L>(simd, before, after);
        }
        tally.report(self.before.len())
    }
}

/// The counts and sums of the report.
#[derive(Default)]
pub(super) struct Tally {
    moved: u64,
    nonfinite: u64,
    squares: Squares,
}

#[allow(
    clippy::float_cmp,
    reason = "any change of the value counts, and only zero is zero"
)]
impl Tally {
    /// Adds the sums to the weights and counts the changes; at most [`TILE`] weights.
    #[inline(always)]
    pub fn update<S: Simd, L: LiveType>(&mut self, simd: S, master: &mut [f32], sums: &[f32]) {
        let (mut new, mut changes) = ([0.0_f32; TILE], [0.0_f32; TILE]);
        let (mut moved, mut bits) = (0, 0);
        let len = master.len().min(TILE);
        let sums = &sums[..len];
        for i in 0..len {
            let old = master[i];
            // A weight of -0 keeps its sign: -0 + 0 would be +0.
            new[i] = if sums[i] == 0.0 { old } else { old + sums[i] };
            changes[i] = L::nearest(new[i]) - L::nearest(old);
            moved += u32::from(changes[i] != 0.0);
            bits |= changes[i].to_bits();
        }
        // Only if a change isn't finite, or at least 2, can all bits of the exponent be set.
        if bits & INFINITY == INFINITY {
            self.add_any::<S, L>(simd, &master[..len], &new, sums);
        } else {
            self.moved += u64::from(moved);
            self.add_squares(simd, sums, &changes[..len]);
        }
        // Not in the loop above: the compiler would emit a masked store, which is very slow on some machines.
        master.copy_from_slice(&new[..len]);
    }

    /// Counts the changes of at most [`TILE`] weights.
    #[inline(always)]
    pub fn compare<S: Simd, L: LiveType>(&mut self, simd: S, before: &[f32], after: &[f32]) {
        let (mut sums, mut changes) = ([0.0_f32; TILE], [0.0_f32; TILE]);
        let (mut moved, mut bits) = (0, 0);
        let len = before.len().min(TILE);
        let (before, after) = (&before[..len], &after[..len]);
        for i in 0..len {
            sums[i] = after[i] - before[i];
            changes[i] = L::nearest(after[i]) - L::nearest(before[i]);
            moved += u32::from(changes[i] != 0.0);
            bits |= changes[i].to_bits();
        }
        if bits & INFINITY == INFINITY {
            self.add_any::<S, L>(simd, before, after, &sums);
        } else {
            self.moved += u64::from(moved);
            self.add_squares(simd, &sums[..len], &changes[..len]);
        }
    }

    /// Counts any changes, also those that aren't finite.
    #[cold]
    #[inline(never)]
    fn add_any<S: Simd, L: LiveType>(&mut self, simd: S, old: &[f32], new: &[f32], sums: &[f32]) {
        let (mut changes, mut intended) = ([0.0_f32; TILE], [0.0_f32; TILE]);
        for (i, (old, new)) in old.iter().zip(new).enumerate() {
            let (before, after) = (L::nearest(*old), L::nearest(*new));
            let change = after - before;
            if change.is_finite() {
                (changes[i], intended[i]) = (change, sums[i]);
            }
            // A weight that was NaN before hasn't moved.
            self.moved += u64::from(before != after && !before.is_nan());
            self.nonfinite += u64::from(!after.is_finite());
        }
        self.add_squares(simd, &intended[..old.len()], &changes[..old.len()]);
    }

    #[inline(always)]
    fn add_squares<S: Simd>(&mut self, simd: S, intended: &[f32], changes: &[f32]) {
        let (intended, rest) = intended.as_chunks();
        let (changes, rest_of_changes) = changes.as_chunks();
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
