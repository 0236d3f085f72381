//! The product y = x W^T of a batch of rows, for the decoder. The weights are read as they are, once for all rows; a library
//! that arranges them first takes twice the time for the few rows of a batch.
//!
//! Each value of y is a chain of fmas over the inputs, in order, from 0. So it depends on its row of x and on its row of W
//! alone: not on other rows of the batch, the instruction set or the threads.

use std::array::from_fn;
use std::hint::black_box;
use std::ops::Range;

use super::KernelError;
use super::low_rank::{FEW_ROWS, MOST_ROWS};
use super::path::Work;
use super::simd::Simd;
use super::stream::{TO_READ, fetch};

/// Inputs between two prefetches: a line of memory.
const STEP: usize = 16;
/// Multiplications that are worth a thread of their own.
const WORTH_A_THREAD: usize = 1 << 20;

/// The sizes of a product: x (rows, inputs), W (outputs, inputs), y (rows, outputs).
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub rows: usize,
    pub inputs: usize,
    pub outputs: usize,
}

impl Shape {
    /// The sizes that fit these lengths.
    pub fn new(y: usize, x: usize, w: usize, inputs: usize) -> Result<Self, KernelError> {
        let shape = Self {
            rows: x.checked_div(inputs).unwrap_or(0),
            inputs,
            outputs: w.checked_div(inputs).unwrap_or(0),
        };
        let Self { rows, outputs, .. } = shape;
        if inputs == 0 || x != rows * inputs || w != outputs * inputs || y != rows * outputs {
            return Err(KernelError::Batch(format!(
                "`x` and `w` must have rows of {inputs} values, more than 0, and `y` one value for each pair of their rows, \
                 got {x}, {w} and {y} values"
            )));
        }
        Ok(shape)
    }

    /// The outputs in parts for the threads.
    pub fn parts(self, threads: usize) -> Vec<Range<usize>> {
        let work = self.rows * self.inputs * self.outputs;
        let parts = (work / WORTH_A_THREAD).clamp(1, threads.max(1));
        let size = self.outputs.div_ceil(parts).next_multiple_of(MOST_ROWS);
        (0..self.outputs)
            .step_by(size.max(1))
            .map(|start| start..self.outputs.min(start + size))
            .collect()
    }
}

/// The rows of x, input by input: groups of two registers of rows, and at most one of a single register.
pub(super) struct Transposed {
    values: Vec<f32>,
    shape: Shape,
}

/// Makes [`Transposed`].
pub(super) struct Transpose<'a> {
    pub x: &'a [f32],
    pub shape: Shape,
}

impl Work for Transpose<'_> {
    type Output = Transposed;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Transposed {
        let Self { x, shape } = self;
        let Shape { rows, inputs, .. } = shape;
        let mut values = vec![0.0; rows.next_multiple_of(S::LANES) * inputs];
        for (first, width) in groups::<S>(rows) {
            let group = &mut values[first * inputs..][..width * inputs];
            let own = x[first * inputs..].chunks_exact(inputs).take(width);
            // Some inputs of all rows, then the next: what is written stays in the first-level cache.
            for (step, group) in group.chunks_mut(STEP * width).enumerate() {
                for (row, x) in own.clone().enumerate() {
                    let x = x[step * STEP..].iter();
                    for (to, from) in group[row..].iter_mut().step_by(width).zip(x) {
                        *to = *from;
                    }
                }
            }
        }
        Transposed { values, shape }
    }
}

/// The first row and the width of each group.
#[inline(always)]
fn groups<S: Simd>(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).step_by(2 * S::LANES).map(move |first| {
        let width = if rows - first > S::LANES { 2 } else { 1 };
        (first, width * S::LANES)
    })
}

/// Some outputs of a product: y\[row\]\[output\] for all rows.
pub(super) struct Multiply<'a, 'y> {
    pub x: &'a Transposed,
    /// The rows of W for these outputs.
    pub w: &'a [f32],
    /// These outputs of each row.
    pub y: Vec<&'y mut [f32]>,
}

impl Work for Multiply<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        if S::ROWS == MOST_ROWS {
            self.outputs::<S, MOST_ROWS>(simd);
        } else {
            self.outputs::<S, FEW_ROWS>(simd);
        }
    }
}

impl Multiply<'_, '_> {
    #[inline(always)]
    fn outputs<S: Simd, const ROWS: usize>(mut self, simd: S) {
        let Shape { rows, inputs, .. } = self.x.shape;
        let mut sums = [0.0; MOST_SUMS];
        for (block, w) in self.w.chunks(ROWS * inputs).enumerate() {
            let count = w.len() / inputs;
            let w: [&[f32]; ROWS] = from_fn(|row| &w[row.min(count - 1) * inputs..][..inputs]);
            for (first, width) in groups::<S>(rows) {
                let x = &self.x.values[first * inputs..][..width * inputs];
                if width == S::LANES {
                    dots::<S, ROWS, 1>(simd, w, x, &mut sums);
                } else {
                    dots::<S, ROWS, 2>(simd, w, x, &mut sums);
                }
                for (row, y) in self.y[first..].iter_mut().take(width).enumerate() {
                    let y = &mut y[block * ROWS..][..count];
                    for (y, sums) in y.iter_mut().zip(sums.chunks_exact(width)) {
                        *y = sums[row];
                    }
                }
            }
        }
    }
}

/// Most sums at a time: [`MOST_ROWS`] times two registers of the widest instruction set.
const MOST_SUMS: usize = MOST_ROWS * 32;

/// sums\[i\]\[row\] = the chain of fmas of row i of `w` and of each row of x, for `N` registers of rows.
#[inline(always)]
fn dots<S: Simd, const ROWS: usize, const N: usize>(
    simd: S,
    w: [&[f32]; ROWS],
    x: &[f32],
    sums: &mut [f32; MOST_SUMS],
) {
    let mut tile = [[simd.float(0.0); N]; ROWS];
    let width = N * S::LANES;
    let steps = w.map(|row| row.as_chunks::<STEP>());
    let ahead = w[ROWS - 1].as_ptr().wrapping_add(w[0].len());
    for (step, x) in x.chunks_exact(STEP * width).enumerate() {
        // Copied first: the compiler can't keep the addresses of twelve rows in registers, and would load them for each input.
        let mut w = [[0.0; STEP]; ROWS];
        for (w, row) in w.iter_mut().zip(&steps) {
            *w = row.0[step];
        }
        let w = black_box(&w);
        for row in 0..ROWS {
            fetch::<TO_READ, _>(
                ahead.wrapping_add(row * steps[0].0.len() * STEP + step * STEP),
                1,
            );
        }
        for (input, x) in x.chunks_exact(width).enumerate() {
            let x: [S::Floats; N] = from_fn(|register| simd.load(&x[register * S::LANES..]));
            for row in 0..ROWS {
                let w = simd.float(w[row][input]);
                for register in 0..N {
                    tile[row][register] = simd.fma(w, x[register], tile[row][register]);
                }
            }
        }
    }
    let rest = &x[steps[0].0.len() * STEP * width..];
    for (input, x) in rest.chunks_exact(width).enumerate() {
        let x: [S::Floats; N] = from_fn(|register| simd.load(&x[register * S::LANES..]));
        for row in 0..ROWS {
            let w = simd.float(steps[row].1[input]);
            for register in 0..N {
                tile[row][register] = simd.fma(w, x[register], tile[row][register]);
            }
        }
    }
    for (registers, sums) in tile.iter().zip(sums.chunks_exact_mut(width)) {
        for (register, sums) in registers.iter().zip(sums.chunks_exact_mut(S::LANES)) {
            simd.store(*register, sums);
        }
    }
}
