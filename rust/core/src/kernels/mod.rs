//! The weight kernels: noise onto weights, updates into them, their digest. Every value is a pure function of its address.
//!
//! [`naive`] is the definition. [`Kernels`] does the same arithmetic, element by element, in the registers of each
//! instruction set ([`Path`]), over chunks that rayon's threads share; neither changes a bit.
//! Knows nothing about models, members or populations.
#![allow(
    clippy::inline_always,
    reason = "what a kernel calls must be compiled for its instruction set"
)]

use std::marker::PhantomData;
use std::ops::Range;

use crate::noise::{Kind, NoiseAddress};

mod chunks;
mod error;
mod factors;
mod low_rank;
pub mod naive;
mod normals;
mod path;
mod pool;
mod position;
mod product;
mod report;
mod rounding;
mod rows;
mod simd;
mod stream;
mod tile;
mod update;
mod weights;

pub use error::KernelError;
pub use low_rank::{LowRank, MAX_RANK};
pub use path::{Path, set_kernel_path};
pub use pool::{MAX_THREADS, kernel_threads, set_kernel_threads};
pub use position::{At, Position};
pub use report::UpdateReport;
pub use rounding::{Bf16, Dtype, F16, F32, LiveType};
pub use rows::{BatchRows, RowFactors, RowNoise};

use chunks::{pieces, split, split_mut};
use factors::{DrawSide, Drawn, Factors};
use low_rank::{AccumulateLowRank, PerturbLowRank, scaled};
use product::{Multiply, Shape, Transpose};
use stream::PAST_CACHE;

/// Live weights as the engine holds them; 16-bit types as their bit patterns.
#[derive(Debug)]
pub enum Live<'a> {
    /// f32.
    F32(&'a mut [f32]),
    /// bfloat16.
    Bf16(&'a mut [u16]),
    /// IEEE half precision.
    F16(&'a mut [u16]),
}

/// The terms of an update.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Noise pairs, in the order of the sum.
    pub pairs: &'a [u32],
    /// One coefficient per pair.
    pub coefficients: &'a [f32],
    /// Type of the live weights, for the report.
    pub dtype: Dtype,
}

/// A chunk of live weights to write, their masters, and the position of the chunk.
type Written<'a, L, P> = ((&'a mut [<L as LiveType>::Bits], &'a [f32]), P);

/// Tokens of y and of x, and the numbers of these tokens.
type Lines<'a, L> = (
    (&'a mut [<L as LiveType>::Bits], &'a [<L as LiveType>::Bits]),
    &'a Range<usize>,
);

/// The kernels on one instruction set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels {
    path: Path,
}

impl Kernels {
    /// On the fastest instruction set of this machine.
    pub fn best() -> Self {
        Self { path: Path::best() }
    }

    /// On the instruction set that [`set_kernel_path`] chose, by default the fastest.
    pub fn chosen() -> Self {
        Self {
            path: path::chosen(),
        }
    }

    /// On the given instruction set.
    ///
    /// # Errors
    /// [`KernelError::Path`] if this machine lacks it.
    pub fn on(path: Path) -> Result<Self, KernelError> {
        if path.is_available() {
            Ok(Self { path })
        } else {
            Err(KernelError::Path(path))
        }
    }

    /// The instruction set.
    pub fn path(self) -> Path {
        self.path
    }

    /// out\[i\] = noise of value i of the position.
    ///
    /// # Errors
    /// [`KernelError::Address`], [`KernelError::Rows`], [`KernelError::Threads`].
    pub fn fill(
        self,
        kind: Kind,
        position: impl Into<Position>,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        let position = position.into();
        let stream = position.stream(kind, out.len())?;
        let cuts = pieces(&position, out.len());
        let jobs = split_mut(out, &cuts).into_iter().zip(&cuts).collect();
        let work = |(out, cut): (&mut [f32], &Range<usize>)| {
            self.path.run(weights::Fill {
                stream,
                position,
                start: cut.start as u64,
                out,
            });
        };
        pool::map(jobs, work).map(|_| ())
    }

    /// live\[i\] = round(master\[i\] plus `scale` times the noise of value i), to nearest even.
    ///
    /// Dense noise: fma(scale, noise, master). Low-rank noise: master + the chain of fmas from 0 over k of
    /// L\[row, k\] * B\[column, k\], with L = (scale / sqrt(rank)) * A. See [`naive::perturb`].
    /// Returns the number of live values that are NaN or infinite.
    ///
    /// # Errors
    /// [`KernelError::Length`] if the slices differ in length; [`KernelError::Address`], [`KernelError::Rows`],
    /// [`KernelError::Rank`], [`KernelError::Shape`], [`KernelError::Threads`].
    pub fn perturb(
        self,
        live: Live<'_>,
        master: &[f32],
        scale: f32,
        at: impl Into<At>,
    ) -> Result<u64, KernelError> {
        self.write(live, master, Some((scale, at.into())))
    }

    /// live\[i\] = round(master\[i\]), to nearest even. Returns the number of live values that are NaN or infinite.
    ///
    /// # Errors
    /// [`KernelError::Length`] if the slices differ in length; [`KernelError::Threads`].
    pub fn round(self, live: Live<'_>, master: &[f32]) -> Result<u64, KernelError> {
        self.write(live, master, None)
    }

    /// For each element: `acc = 0; for each pair in order: acc = fma(coefficient, noise, acc); master += acc unless acc is
    /// zero`, in f32. An update of zero changes no bit, not even of -0. See [`naive::accumulate`] for low-rank noise.
    ///
    /// Dense noise takes one pass over the weights for all pairs. Low-rank noise takes one matrix product over the pairs;
    /// the perturbations are never built.
    ///
    /// # Errors
    /// [`KernelError::Coefficients`] if pairs and coefficients differ in number; as [`Kernels::perturb`].
    pub fn accumulate(
        self,
        master: &mut [f32],
        at: impl Into<At>,
        terms: Terms<'_>,
    ) -> Result<UpdateReport, KernelError> {
        let at = at.into();
        if terms.pairs.len() != terms.coefficients.len() {
            return Err(KernelError::Coefficients {
                pairs: terms.pairs.len(),
                coefficients: terms.coefficients.len(),
            });
        }
        match terms.dtype {
            Dtype::F32 => self.accumulate_as::<F32>(master, at, terms),
            Dtype::Bf16 => self.accumulate_as::<Bf16>(master, at, terms),
            Dtype::F16 => self.accumulate_as::<F16>(master, at, terms),
        }
    }

    /// The factors of a matrix for some pairs; the `pair` of its address is ignored.
    ///
    /// # Errors
    /// As [`Kernels::fill`], and [`KernelError::Rank`].
    pub fn factors(self, matrix: LowRank, pairs: &[u32]) -> Result<RowFactors, KernelError> {
        let LowRank {
            rank,
            shape: [outputs, inputs],
            ..
        } = matrix;
        matrix.check(outputs * inputs)?;
        let draw = |kind, size: usize, first: u64, scale: f32| -> Result<Vec<f32>, KernelError> {
            let mut drawn = vec![0.0; size * rank];
            let mut all = vec![0.0; pairs.len() * size * rank];
            for (pair, all) in pairs.iter().zip(all.chunks_exact_mut((size * rank).max(1))) {
                let address = NoiseAddress {
                    pair: *pair,
                    element: first * rank as u64,
                    ..matrix.address
                };
                self.fill(kind, address, &mut drawn)?;
                for (k, values) in all.chunks_exact_mut(size.max(1)).enumerate() {
                    for (value, drawn) in values.iter_mut().zip(drawn[k..].iter().step_by(rank)) {
                        *value = scale * drawn;
                    }
                }
            }
            Ok(all)
        };
        Ok(RowFactors {
            a: draw(Kind::LowRankA, outputs, matrix.first[0], scaled(1.0, rank))?,
            b: draw(Kind::LowRankB, inputs, matrix.first[1], 1.0)?,
            shape: [pairs.len(), rank, outputs, inputs],
        })
    }

    /// y += s (x B) A^T for each row of a batch, all its tokens with the noise of the row's pair. y (rows, tokens, out), x
    /// (rows, tokens, in). Sums are f32, in a fixed order, and y is rounded once.
    ///
    /// # Errors
    /// [`KernelError::Batch`], [`KernelError::Threads`].
    pub fn add_low_rank<L: LiveType>(
        self,
        y: &mut [L::Bits],
        x: &[L::Bits],
        noise: RowNoise<'_>,
    ) -> Result<(), KernelError> {
        let tokens = noise.check(y.len(), x.len())?;
        let (outputs, inputs) = (noise.width(), noise.inputs());
        let parts = noise.parts(tokens, kernel_threads());
        let scaled = |width: usize| -> Vec<Range<usize>> {
            let part = |part: &Range<usize>| part.start * width..part.end * width;
            parts.iter().map(part).collect()
        };
        let jobs = split_mut(y, &scaled(outputs))
            .into_iter()
            .zip(split(x, &scaled(inputs)))
            .zip(&parts)
            .collect();
        let work = |((y, x), part): Lines<'_, L>| {
            self.path.run(rows::AddLowRank::<L> {
                noise,
                tokens,
                first: part.start,
                y,
                x,
                live: PhantomData,
            });
        };
        pool::map(jobs, work).map(|_| ())
    }

    /// y = x W^T: y (rows, outputs), x (rows, `inputs`), w (outputs, `inputs`). Each value is a chain of fmas over the inputs,
    /// in order, from 0; in the last rows % 16 rows, if they are four or fewer, the sum of 16 chains, for the inputs c, c + 16,
    /// c + 32, ..., added in halves. It doesn't depend on the values of other rows, the instruction set or the threads.
    ///
    /// # Errors
    /// [`KernelError::Batch`], [`KernelError::Threads`].
    pub fn product(
        self,
        y: &mut [f32],
        x: &[f32],
        w: &[f32],
        inputs: usize,
    ) -> Result<(), KernelError> {
        let shape = Shape::new(y.len(), x.len(), w.len(), inputs)?;
        let x = self.path.run(Transpose { x, shape });
        let parts = shape.parts(kernel_threads());
        let mut jobs: Vec<Vec<&mut [f32]>> = parts.iter().map(|_| Vec::new()).collect();
        for row in y.chunks_exact_mut(shape.outputs.max(1)) {
            for (job, part) in jobs.iter_mut().zip(split_mut(row, &parts)) {
                job.push(part);
            }
        }
        let jobs = jobs.into_iter().zip(&parts).collect();
        let work = |(y, part): (Vec<&mut [f32]>, &Range<usize>)| {
            let w = &w[part.start * inputs..part.end * inputs];
            self.path.run(Multiply { x: &x, w, y });
        };
        pool::map(jobs, work).map(|_| ())
    }

    /// Sum modulo 2^64 over the elements of `h(tensor, element) * (2 * bits + 1)`: see [`naive::digest`].
    ///
    /// # Errors
    /// As [`Kernels::fill`].
    pub fn digest(self, master: &[f32], position: impl Into<Position>) -> Result<u64, KernelError> {
        let position = position.into();
        position.check(master.len())?;
        let cuts = pieces(&position, master.len());
        let work = |cut: Range<usize>| {
            self.path.run(weights::Digest {
                position,
                start: cut.start as u64,
                master: &master[cut],
            })
        };
        let digests = pool::map(cuts, work)?;
        Ok(digests.into_iter().fold(0, u64::wrapping_add))
    }

    fn write(
        self,
        live: Live<'_>,
        master: &[f32],
        noise: Option<(f32, At)>,
    ) -> Result<u64, KernelError> {
        match live {
            Live::F32(live) => self.write_as::<F32>(live, master, noise),
            Live::Bf16(live) => self.write_as::<Bf16>(live, master, noise),
            Live::F16(live) => self.write_as::<F16>(live, master, noise),
        }
    }

    fn write_as<L: LiveType>(
        self,
        live: &mut [L::Bits],
        master: &[f32],
        noise: Option<(f32, At)>,
    ) -> Result<u64, KernelError> {
        if live.len() != master.len() {
            return Err(KernelError::Length {
                live: live.len(),
                master: master.len(),
            });
        }
        let (position, noise) = match noise {
            None => (Position::run(NoiseAddress::default()), None),
            Some((scale, At::Dense(position))) => {
                let stream = position.stream(Kind::Dense, master.len())?;
                (position, Some((scale, stream)))
            }
            Some((scale, At::LowRank(matrix))) => {
                return self.write_low_rank::<L>(live, master, scale, matrix);
            }
        };
        let cuts = pieces(&position, master.len());
        let past_cache = size_of_val(live) >= PAST_CACHE;
        let jobs: Vec<_> = split_mut(live, &cuts)
            .into_iter()
            .zip(split(master, &cuts))
            .zip(&cuts)
            .collect();
        let work = |((live, master), cut): Written<'_, L, &Range<usize>>| match noise {
            None => self.path.run(weights::Round::<L> {
                live,
                master,
                past_cache,
            }),
            Some((scale, stream)) => self.path.run(weights::Perturb::<L> {
                stream,
                position,
                start: cut.start as u64,
                scale,
                live,
                master,
                past_cache,
            }),
        };
        Ok(pool::map(jobs, work)?.into_iter().sum())
    }

    fn write_low_rank<L: LiveType>(
        self,
        live: &mut [L::Bits],
        master: &[f32],
        scale: f32,
        matrix: LowRank,
    ) -> Result<u64, KernelError> {
        matrix.check(master.len())?;
        let factors = Factors {
            matrix,
            pairs: &[matrix.address.pair],
            scales: &[scaled(scale, matrix.rank)],
            drawn: None,
        };
        let cuts = matrix.cuts();
        let jobs = split_mut(live, &cuts)
            .into_iter()
            .zip(split(master, &cuts))
            .zip(matrix.panels())
            .collect();
        let work = |((live, master), rows): Written<'_, L, Range<usize>>| {
            self.path.run(PerturbLowRank::<L> {
                factors,
                rows,
                live,
                master,
            })
        };
        Ok(pool::map(jobs, work)?.into_iter().sum())
    }

    fn accumulate_as<L: LiveType>(
        self,
        master: &mut [f32],
        at: At,
        terms: Terms<'_>,
    ) -> Result<UpdateReport, KernelError> {
        let position = match at {
            At::Dense(position) => position,
            At::LowRank(matrix) => return self.accumulate_low_rank::<L>(master, matrix, terms),
        };
        let stream = position.stream(Kind::Dense, master.len())?;
        let cuts = pieces(&position, master.len());
        let jobs = split_mut(master, &cuts).into_iter().zip(&cuts).collect();
        let work = |(master, cut): (&mut [f32], &Range<usize>)| {
            self.path.run(update::Accumulate::<L> {
                stream,
                position,
                start: cut.start as u64,
                terms,
                master,
                live: PhantomData,
            })
        };
        // In the order of the chunks, so that the report doesn't depend on the threads.
        Ok(pool::map(jobs, work)?.into_iter().sum())
    }

    fn accumulate_low_rank<L: LiveType>(
        self,
        master: &mut [f32],
        matrix: LowRank,
        terms: Terms<'_>,
    ) -> Result<UpdateReport, KernelError> {
        matrix.check(master.len())?;
        let coefficients = terms.coefficients.iter();
        let scales: Vec<f32> = coefficients
            .map(|coefficient| scaled(*coefficient, matrix.rank))
            .collect();
        let factors = Factors {
            matrix,
            pairs: terms.pairs,
            scales: &scales,
            drawn: None,
        };
        let drawn = if let Some(sides) = Drawn::sides(&factors) {
            let draw = |side| self.path.run(DrawSide { factors, side });
            Some(Drawn::new(&factors, pool::map(sides, draw)?))
        } else {
            None
        };
        let factors = Factors {
            drawn: drawn.as_ref(),
            ..factors
        };
        let jobs = split_mut(master, &matrix.cuts())
            .into_iter()
            .zip(matrix.panels())
            .collect();
        let work = |(master, rows): (&mut [f32], Range<usize>)| {
            self.path.run(AccumulateLowRank::<L> {
                factors,
                rows,
                master,
                live: PhantomData,
            })
        };
        Ok(pool::map(jobs, work)?.into_iter().sum())
    }
}
