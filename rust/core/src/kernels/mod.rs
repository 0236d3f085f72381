//! The weight kernels: noise onto weights, updates into them, their digest. Every value is pure in its address.
//!
//! [`naive`] is the definition. [`Kernels`] runs the same arithmetic, element by element, in loops that the compiler
//! vectorises for each instruction set ([`Path`]), over chunks that rayon's threads share; neither changes a bit.
//! Knows nothing about models, members or populations.

use rayon::prelude::*;

use crate::noise::{NoiseAddress, NoiseError};

mod chunks;
mod digest;
mod error;
pub mod naive;
mod path;
mod pool;
mod report;
mod rounding;
mod tile;
mod update;
mod weights;

pub use error::KernelError;
pub use path::Path;
pub use pool::{MAX_THREADS, kernel_threads, set_kernel_threads};
pub use report::UpdateReport;
pub use rounding::{Bf16, Dtype, F16, F32, LiveType};

use chunks::{pieces, split, split_mut};

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

/// What an update needs beside the weights.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// Where the weights lie; its `pair` is ignored.
    pub address: NoiseAddress,
    /// Noise pairs, in the order of the sum.
    pub pairs: &'a [u32],
    /// One coefficient per pair.
    pub coefficients: &'a [f32],
    /// Type of the live weights, for the report.
    pub dtype: Dtype,
}

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

    /// On the given one.
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

    /// out\[i\] = noise(element + i).
    ///
    /// # Errors
    /// [`NoiseError`] inside [`KernelError::Address`]; [`KernelError::Threads`].
    pub fn fill(self, address: NoiseAddress, out: &mut [f32]) -> Result<(), KernelError> {
        let stream = address.stream(out.len())?;
        let cuts = pieces(address.element, out.len());
        let outs = split_mut(out, &cuts);
        pool::run(|| {
            outs.into_par_iter().zip(&cuts).for_each(|(out, cut)| {
                let element = address.element + cut.start as u64;
                self.path.run(weights::Fill {
                    stream,
                    element,
                    out,
                });
            });
        })
    }

    /// live\[i\] = round(fma(scale, noise(element + i), master\[i\])), the fma in f32, one rounding to nearest even.
    ///
    /// # Errors
    /// [`KernelError::Length`] if the slices differ in length; as [`Kernels::fill`].
    pub fn perturb_into(
        self,
        live: Live<'_>,
        master: &[f32],
        scale: f32,
        address: NoiseAddress,
    ) -> Result<(), KernelError> {
        let noise = Some((scale, address));
        match live {
            Live::F32(live) => self.write::<F32>(live, master, noise),
            Live::Bf16(live) => self.write::<Bf16>(live, master, noise),
            Live::F16(live) => self.write::<F16>(live, master, noise),
        }
    }

    /// live\[i\] = round(master\[i\]), to nearest even.
    ///
    /// # Errors
    /// [`KernelError::Length`] if the slices differ in length; [`KernelError::Threads`].
    pub fn round_into(self, live: Live<'_>, master: &[f32]) -> Result<(), KernelError> {
        match live {
            Live::F32(live) => self.write::<F32>(live, master, None),
            Live::Bf16(live) => self.write::<Bf16>(live, master, None),
            Live::F16(live) => self.write::<F16>(live, master, None),
        }
    }

    /// For each element: `acc = 0; for each pair in order: acc = fma(coefficient, noise, acc); master += acc unless acc is
    /// zero`, in f32; one pass over the weights for all pairs. An update of zero changes no bit, not even of -0.
    ///
    /// # Errors
    /// [`KernelError::Coefficients`] if pairs and coefficients differ in number; as [`Kernels::fill`].
    pub fn accumulate(
        self,
        master: &mut [f32],
        update: Update<'_>,
    ) -> Result<UpdateReport, KernelError> {
        match update.dtype {
            Dtype::F32 => self.accumulate_as::<F32>(master, update),
            Dtype::Bf16 => self.accumulate_as::<Bf16>(master, update),
            Dtype::F16 => self.accumulate_as::<F16>(master, update),
        }
    }

    /// Sum modulo 2^64 over the elements of `h(tensor, element) * (2 * bits + 1)`: see [`naive::digest`].
    ///
    /// # Errors
    /// As [`Kernels::fill`].
    pub fn digest(self, master: &[f32], tensor: u32, element: u64) -> Result<u64, KernelError> {
        NoiseAddress {
            run_seed: 0,
            iteration: 0,
            pair: 0,
            tensor,
            element,
        }
        .stream(master.len())?;
        let cuts = pieces(element, master.len());
        let work = |cut: &std::ops::Range<usize>| {
            let element = element + cut.start as u64;
            self.path.run(digest::Digest {
                tensor,
                element,
                master: &master[cut.clone()],
            })
        };
        pool::run(|| cuts.par_iter().map(work).reduce(|| 0, u64::wrapping_add))
    }

    fn write<L: LiveType>(
        self,
        live: &mut [L::Bits],
        master: &[f32],
        noise: Option<(f32, NoiseAddress)>,
    ) -> Result<(), KernelError> {
        if live.len() != master.len() {
            return Err(KernelError::Length {
                live: live.len(),
                master: master.len(),
            });
        }
        let noise =
            noise.map(|(scale, address)| Ok((scale, address, address.stream(master.len())?)));
        let noise = noise
            .transpose()
            .map_err(|error: NoiseError| KernelError::from(error))?;
        let cuts = pieces(
            noise.map_or(0, |(_, address, _)| address.element),
            master.len(),
        );
        let jobs: Vec<_> = split_mut(live, &cuts)
            .into_iter()
            .zip(split(master, &cuts))
            .zip(&cuts)
            .collect();
        pool::run(|| {
            jobs.into_par_iter()
                .for_each(|((live, master), cut)| match noise {
                    None => self.path.run(weights::Round::<L> { live, master }),
                    Some((scale, address, stream)) => {
                        let element = address.element + cut.start as u64;
                        self.path.run(weights::Perturb::<L> {
                            stream,
                            element,
                            scale,
                            live,
                            master,
                        });
                    }
                });
        })
    }

    fn accumulate_as<L: LiveType>(
        self,
        master: &mut [f32],
        update: Update<'_>,
    ) -> Result<UpdateReport, KernelError> {
        let Update {
            address,
            pairs,
            coefficients,
            ..
        } = update;
        if pairs.len() != coefficients.len() {
            return Err(KernelError::Coefficients {
                pairs: pairs.len(),
                coefficients: coefficients.len(),
            });
        }
        let stream = address.stream(master.len())?;
        let cuts = pieces(address.element, master.len());
        let jobs = split_mut(master, &cuts);
        let work = |(master, cut): (&mut [f32], &std::ops::Range<usize>)| {
            let element = address.element + cut.start as u64;
            self.path.run(update::Accumulate::<L>::new(
                stream,
                element,
                pairs,
                coefficients,
                master,
            ))
        };
        // Collected first and summed in the order of the chunks, so that the report doesn't depend on the threads.
        let reports: Vec<UpdateReport> =
            pool::run(|| jobs.into_par_iter().zip(&cuts).map(work).collect())?;
        Ok(reports.into_iter().sum())
    }
}
