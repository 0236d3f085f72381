//! The product y = x W^T of a batch of rows, for the decoder. The weights are read as they are, once for all rows; a library
//! that arranges them first takes twice the time for the few rows of a batch.
//!
//! Rows are the lanes of a register. Each value of y is a chain of fmas over the inputs, in order, from 0. A few rows that are
//! left over would leave most lanes empty. For them inputs are the lanes: each value is the sum of [`CHAINS`] chains, added in
//! halves. So a value depends on its row of x, on its row of W, and on whether its row is left over (see
//! [`Shape::left_over`]): not on the values of other rows, the instruction set or the threads.

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
/// Chains of fmas of a row that is left over: chain c has the inputs c, c + 16, c + 32, ...
const CHAINS: usize = 16;
/// Most rows beyond a multiple of [`CHAINS`] that count as left over.
const MOST_LEFT_OVER: usize = 4;
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

    /// The number of rows, at the end, that are left over.
    pub fn left_over(self) -> usize {
        let beyond = self.rows % CHAINS;
        if beyond > MOST_LEFT_OVER { 0 } else { beyond }
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

/// The rows of x, input by input: groups of two registers of rows, and at most one of a single register. The rows that are
/// left over stay as they are, filled up with zeros to a multiple of [`CHAINS`].
pub(super) struct Transposed {
    values: Vec<f32>,
    left_over: Vec<f32>,
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
        let inputs = shape.inputs;
        let (x, last) = x.split_at(x.len() - shape.left_over() * inputs);
        let rows = x.len() / inputs;
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
        let whole = inputs.next_multiple_of(CHAINS);
        let mut left_over = vec![0.0; shape.left_over() * whole];
        for (to, from) in left_over
            .chunks_exact_mut(whole)
            .zip(last.chunks_exact(inputs))
        {
            to[..inputs].copy_from_slice(from);
        }
        Transposed {
            values,
            left_over,
            shape,
        }
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
            self.outputs::<S, MOST_ROWS, 4>(simd);
        } else {
            self.outputs::<S, FEW_ROWS, 2>(simd);
        }
    }
}

impl Multiply<'_, '_> {
    /// `ROWS` outputs at a time; for rows that are left over, `AT_ONCE` of them.
    #[inline(always)]
    fn outputs<S: Simd, const ROWS: usize, const AT_ONCE: usize>(mut self, simd: S) {
        let Transposed {
            values,
            left_over,
            shape,
        } = self.x;
        let (inputs, rows) = (shape.inputs, shape.rows - shape.left_over());
        let mut sums = [0.0; MOST_SUMS];
        for (block, w) in self.w.chunks(ROWS * inputs).enumerate() {
            let count = w.len() / inputs;
            let w: [&[f32]; ROWS] = from_fn(|row| &w[row.min(count - 1) * inputs..][..inputs]);
            for (first, width) in groups::<S>(rows) {
                let x = &values[first * inputs..][..width * inputs];
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
            let own = inputs.next_multiple_of(CHAINS);
            let pairs = self.y[rows..].chunks_mut(PAIR);
            for (y, x) in pairs.zip(left_over.chunks(PAIR * own)) {
                // A row without another one is multiplied twice.
                let x: [&[f32]; PAIR] = from_fn(|row| &x[(row * own) % x.len()..][..own]);
                for (part, w) in w.as_chunks::<AT_ONCE>().0.iter().enumerate() {
                    let sums = sums_of_chains::<S, AT_ONCE>(simd, *w, x);
                    let outputs = count.min(part * AT_ONCE)..count.min((part + 1) * AT_ONCE);
                    for (row, y) in y.iter_mut().enumerate() {
                        let y = &mut y[block * ROWS..][outputs.clone()];
                        for (y, sums) in y.iter_mut().zip(sums) {
                            *y = sums[row];
                        }
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

/// Rows of x that are left over are multiplied two at a time.
const PAIR: usize = 2;

/// sums\[i\]\[row\] = the sum of the chains of row i of `w` and of each row of x, which are filled up with zeros.
#[inline(always)]
fn sums_of_chains<S: Simd, const ROWS: usize>(
    simd: S,
    w: [&[f32]; ROWS],
    x: [&[f32]; PAIR],
) -> [[f32; PAIR]; ROWS] {
    let mut tile = [[[simd.float(0.0); MOST_REGISTERS]; PAIR]; ROWS];
    let whole = w[0].len() / CHAINS;
    let x = x.map(|row| row.as_chunks::<CHAINS>().0);
    let (steps, last) = (
        w.map(|row| &row.as_chunks().0[..whole]),
        x.map(|row| &row[whole..]),
    );
    let x = x.map(|row| &row[..whole]);
    for step in 0..whole {
        add_products(
            simd,
            steps.map(|row| &row[step]),
            x.map(|row| &row[step]),
            &mut tile,
        );
    }
    if !last[0].is_empty() {
        let mut filled = [[0.0; CHAINS]; ROWS];
        for (filled, row) in filled.iter_mut().zip(w) {
            let row = &row[whole * CHAINS..];
            filled[..row.len()].copy_from_slice(row);
        }
        add_products(simd, filled.each_ref(), last.map(|row| &row[0]), &mut tile);
    }
    tile.map(|tile| tile.map(|registers| in_halves(simd, registers)))
}

/// Registers of [`CHAINS`] values at most: those of one lane.
const MOST_REGISTERS: usize = CHAINS;

/// One input more for each chain.
#[inline(always)]
fn add_products<S: Simd, const ROWS: usize>(
    simd: S,
    w: [&[f32; CHAINS]; ROWS],
    x: [&[f32; CHAINS]; PAIR],
    tile: &mut [[[S::Floats; MOST_REGISTERS]; PAIR]; ROWS],
) {
    for lanes in (0..CHAINS).step_by(S::LANES) {
        let x = x.map(|x| simd.load(&x[lanes..]));
        for row in 0..ROWS {
            let w = simd.load(&w[row][lanes..]);
            for of_x in 0..PAIR {
                let sum = &mut tile[row][of_x][lanes / S::LANES];
                *sum = simd.fma(w, x[of_x], *sum);
            }
        }
    }
}

/// The sum of the chains: of 8 with 8, 4 with 4, 2 with 2, 1 with 1.
#[inline(always)]
fn in_halves<S: Simd>(simd: S, registers: [S::Floats; MOST_REGISTERS]) -> f32 {
    let mut chains = [0.0; CHAINS];
    for (chains, register) in chains.chunks_exact_mut(S::LANES).zip(registers) {
        simd.store(register, chains);
    }
    for half in [8, 4, 2, 1] {
        for chain in 0..half {
            chains[chain] += chains[chain + half];
        }
    }
    chains[0]
}
