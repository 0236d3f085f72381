//! Low-rank noise of the rows of a batch: with y = x W^T computed for all rows at once, each row gets the noise of its own
//! member on top, y += s (x B) A^T (EGGROLL, arXiv 2511.16652). W + s A B^T is never built.

use std::marker::PhantomData;
use std::ops::Range;

use super::KernelError;
use super::path::Work;
use super::rounding::LiveType;
use super::simd::Simd;

/// Partial sums of a dot product, and columns that are added at once. The same on every instruction set, so that the sums
/// are the same.
const LANES: usize = 64;
/// Multiplications that are worth a thread of their own.
const WORTH_A_THREAD: usize = 1 << 19;

/// The factors of one matrix for some pairs: [`Kernels::factors`](super::Kernels::factors) draws them.
#[derive(Clone, Debug)]
pub struct RowFactors {
    /// A (pairs, rank, out), 1 / sqrt(rank) included.
    pub a: Vec<f32>,
    /// B (pairs, rank, in).
    pub b: Vec<f32>,
    /// pairs, rank, out, in.
    pub shape: [usize; 4],
}

/// What each row of a batch takes of the factors.
#[derive(Clone, Debug)]
pub struct BatchRows {
    /// The index of each row's pair.
    pub pairs: Vec<u32>,
    /// The scale of each row's noise: sigma or -sigma.
    pub scales: Vec<f32>,
}

/// One matrix product of a batch: which factor multiplies x, and which outputs y has.
#[derive(Clone, Copy, Debug)]
pub struct RowNoise<'a> {
    /// (pairs, rank, all outputs).
    left: &'a [f32],
    /// (pairs, rank, inputs).
    right: &'a [f32],
    rank: usize,
    all: usize,
    outputs: (usize, usize),
    inputs: usize,
    rows: &'a BatchRows,
}

impl RowFactors {
    /// The noise of y = x W^T; `outputs` are the rows of W that y has, such as those of one expert.
    pub fn of_rows<'a>(&'a self, rows: &'a BatchRows, outputs: Range<usize>) -> RowNoise<'a> {
        let [_, rank, all, inputs] = self.shape;
        RowNoise {
            left: &self.a,
            right: &self.b,
            rank,
            all,
            outputs: (outputs.start, outputs.end),
            inputs,
            rows,
        }
    }

    /// The noise of y = x W.
    pub fn transposed<'a>(&'a self, rows: &'a BatchRows) -> RowNoise<'a> {
        let [_, rank, inputs, all] = self.shape;
        RowNoise {
            left: &self.b,
            right: &self.a,
            rank,
            all,
            outputs: (0, all),
            inputs,
            rows,
        }
    }

    /// y (rows, tokens, in) += the noise of row `ids` (rows, tokens) of W: s A\[id\] B^T.
    ///
    /// # Errors
    /// [`KernelError::Batch`].
    pub fn add_embedding<L: LiveType>(
        &self,
        y: &mut [L::Bits],
        ids: &[i64],
        rows: &BatchRows,
    ) -> Result<(), KernelError> {
        let [pairs, rank, entries, width] = self.shape;
        rows.check(pairs)?;
        let tokens = ids.len().checked_div(rows.pairs.len()).unwrap_or(0);
        if ids.len() != rows.pairs.len() * tokens || y.len() != ids.len() * width {
            return refuse(format!(
                "`y` must have {width} values for each of {} ids in {} rows, got {}",
                ids.len(),
                rows.pairs.len(),
                y.len()
            ));
        }
        if let Some(id) = ids.iter().find(|id| !(0..entries as i64).contains(id)) {
            return refuse(format!("there is a token {id}, expected [0, {entries})"));
        }
        for (line, (y, id)) in y.chunks_exact_mut(width.max(1)).zip(ids).enumerate() {
            let row = line / tokens;
            let pair = rows.pairs[row] as usize;
            let products: Vec<f32> = (0..rank)
                .map(|k| rows.scales[row] * self.a[(pair * rank + k) * entries + *id as usize])
                .collect();
            let b = &self.b[pair * rank * width..][..rank * width];
            add::<L>(y, &products, b, width, 0);
        }
        Ok(())
    }
}

impl BatchRows {
    fn check(&self, pairs: usize) -> Result<(), KernelError> {
        if self.scales.len() != self.pairs.len() {
            return refuse(format!(
                "{} rows have {} scales, expected as many",
                self.pairs.len(),
                self.scales.len()
            ));
        }
        match self.pairs.iter().find(|pair| **pair as usize >= pairs) {
            Some(pair) => refuse(format!("a row has the pair {pair}, expected [0, {pairs})")),
            None => Ok(()),
        }
    }
}

fn refuse<T>(message: String) -> Result<T, KernelError> {
    Err(KernelError::Batch(message))
}

impl RowNoise<'_> {
    /// The number of outputs of y.
    pub(super) fn width(&self) -> usize {
        self.outputs.1 - self.outputs.0
    }

    /// The number of inputs of x.
    pub(super) fn inputs(&self) -> usize {
        self.inputs
    }

    /// Checks the lengths and the pairs. Returns the number of tokens of a row.
    pub(super) fn check(&self, y: usize, x: usize) -> Result<usize, KernelError> {
        let (first, last) = self.outputs;
        if first >= last || last > self.all || self.inputs == 0 {
            return refuse(format!(
                "the outputs must be some of [0, {}) and there must be inputs, got [{first}, {last}) and {} inputs",
                self.all, self.inputs
            ));
        }
        self.rows.check(self.left.len() / (self.rank * self.all))?;
        let rows = self.rows.pairs.len();
        let tokens = y.checked_div(rows * self.width()).unwrap_or(0);
        if y != rows * tokens * self.width() || x != rows * tokens * self.inputs {
            return refuse(format!(
                "`y` and `x` must have the same number of tokens in each of {rows} rows, of {} and {} values, got {y} and \
                 {x} values",
                self.width(),
                self.inputs
            ));
        }
        Ok(tokens)
    }

    /// The tokens of all rows, in parts for the threads.
    pub(super) fn parts(&self, tokens: usize, threads: usize) -> Vec<Range<usize>> {
        let lines = self.rows.pairs.len() * tokens;
        let work = lines * self.rank * (self.width() + self.inputs);
        let parts = (work / WORTH_A_THREAD).clamp(1, threads.max(1));
        let size = lines.div_ceil(parts).max(1);
        (0..lines)
            .step_by(size)
            .map(|start| start..lines.min(start + size))
            .collect()
    }
}

/// y += s (x B) A^T for some tokens of the batch.
pub(super) struct AddLowRank<'a, L: LiveType> {
    pub noise: RowNoise<'a>,
    /// Tokens of a row.
    pub tokens: usize,
    /// Number of the first token, over all rows.
    pub first: usize,
    pub y: &'a mut [L::Bits],
    pub x: &'a [L::Bits],
    pub live: PhantomData<L>,
}

impl<L: LiveType> Work for AddLowRank<'_, L> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let RowNoise {
            left,
            right,
            rank,
            all,
            outputs,
            inputs,
            rows,
        } = self.noise;
        let mut products = vec![0.0; rank];
        let lines = self
            .y
            .chunks_exact_mut(self.noise.width())
            .zip(self.x.chunks_exact(inputs));
        for (line, (y, x)) in lines.enumerate() {
            let row = (self.first + line) / self.tokens;
            let pair = rows.pairs[row] as usize;
            let right = &right[pair * rank * inputs..][..rank * inputs];
            for (product, right) in products.iter_mut().zip(right.chunks_exact(inputs)) {
                *product = rows.scales[row] * dot::<L>(x, right);
            }
            let left = &left[pair * rank * all..][..rank * all];
            add::<L>(y, &products, left, all, outputs.0);
        }
    }
}

#[inline(always)]
fn dot<L: LiveType>(x: &[L::Bits], b: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (x, x_rest) = x.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (x, b) in x.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] = L::widen(x[lane]).mul_add(b[lane], sums[lane]);
        }
    }
    for (sum, (x, b)) in sums.iter_mut().zip(x_rest.iter().zip(b_rest)) {
        *sum = L::widen(*x).mul_add(*b, *sum);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    sums[0]
}

/// y = round(y + the chain of fma(product, factor) over the rank, from 0). The factors of one k are `stride` apart; y begins
/// at their value `first`.
#[inline(always)]
fn add<L: LiveType>(
    y: &mut [L::Bits],
    products: &[f32],
    factors: &[f32],
    stride: usize,
    first: usize,
) {
    let (whole, rest) = y.as_chunks_mut::<LANES>();
    let last = first + whole.len() * LANES;
    for (block, y) in whole.iter_mut().enumerate() {
        let mut sums = [0.0_f32; LANES];
        for (product, factors) in products.iter().zip(factors.chunks_exact(stride)) {
            let factors = &factors[first + block * LANES..][..LANES];
            for lane in 0..LANES {
                sums[lane] = product.mul_add(factors[lane], sums[lane]);
            }
        }
        for lane in 0..LANES {
            y[lane] = L::round(L::widen(y[lane]) + sums[lane]);
        }
    }
    for (column, y) in rest.iter_mut().enumerate() {
        let mut sum = 0.0_f32;
        for (product, factors) in products.iter().zip(factors.chunks_exact(stride)) {
            sum = product.mul_add(factors[last + column], sum);
        }
        *y = L::round(L::widen(*y) + sum);
    }
}
