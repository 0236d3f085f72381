//! The instruction sets. The fastest one is chosen at run time; tests and benches can force each.
//!
//! All paths share one body: [`Path::run`] calls it inside a function that is compiled for the instruction set, with the
//! operations of that set ([`Simd`]). The compiler vectorizes plain loops there. Rust never contracts `a * b + c` into an
//! fma, so the bits don't depend on the path.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::KernelError;
#[cfg(target_arch = "aarch64")]
use super::simd::Neon;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Portable, Simd};

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// The baseline of the target. On x86-64 an fma is then a call into libm: correct, but slow.
    Plain,
    /// aarch64, whose baseline it is part of.
    Neon,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, DQ, BW and VL.
    Avx512,
}

/// Work that [`Path::run`] compiles once per path. `run` and everything that it calls need `#[inline(always)]`: only
/// inlined code is compiled for the path.
pub(super) trait Work {
    type Output;
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

impl Path {
    /// Every path, slowest first.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Neon, Self::Avx2, Self::Avx512];

    /// The name: "plain", "neon", "avx2" or "avx512".
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    /// The fastest path of this machine.
    pub fn best() -> Self {
        let available = Self::ALL.into_iter().rev().find(|path| path.is_available());
        available.unwrap_or(Self::Plain)
    }

    /// Whether this machine can run the path.
    pub fn is_available(self) -> bool {
        match self {
            Self::Plain => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(target_arch = "aarch64")]
            Self::Neon => true,
            #[cfg(not(target_arch = "aarch64"))]
            Self::Neon => false,
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// Does the work, compiled for this path, or for the baseline if this machine lacks the path.
    pub(super) fn run<W: Work>(self, work: W) -> W::Output {
        match self {
            // SAFETY: `is_available` found AVX2 and FMA on this machine.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 if self.is_available() => unsafe { avx2(work) },
            // SAFETY: `is_available` found AVX2, FMA and AVX-512 F, DQ, BW and VL on this machine.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 if self.is_available() => unsafe { avx512(work) },
            #[cfg(target_arch = "aarch64")]
            Self::Neon => work.run(Neon),
            _ => work.run(Portable),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<W: Work>(work: W) -> W::Output {
    // SAFETY: this function runs only on machines with AVX2 and FMA.
    work.run(unsafe { Avx2::new() })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
fn avx512<W: Work>(work: W) -> W::Output {
    // SAFETY: this function runs only on machines with AVX-512 F.
    work.run(unsafe { Avx512::new() })
}

/// 0 for the fastest path, else 1 + the index in [`Path::ALL`].
static CHOSEN: AtomicUsize = AtomicUsize::new(0);

/// Sets the instruction set that [`Kernels::chosen`](super::Kernels::chosen) uses, by name; `None` means the fastest.
/// For benches and tests; never changes the bits.
///
/// # Errors
/// [`KernelError::PathName`] for an unknown name, [`KernelError::Path`] if this machine lacks the instruction set.
pub fn set_kernel_path(name: Option<&str>) -> Result<(), KernelError> {
    let mut chosen = 0;
    if let Some(name) = name {
        let index = Path::ALL
            .iter()
            .position(|path| path.name() == name)
            .ok_or_else(|| KernelError::PathName(name.to_owned()))?;
        if !Path::ALL[index].is_available() {
            return Err(KernelError::Path(Path::ALL[index]));
        }
        chosen = index + 1;
    }
    CHOSEN.store(chosen, Ordering::Relaxed);
    Ok(())
}

/// The chosen instruction set.
pub(super) fn chosen() -> Path {
    match CHOSEN.load(Ordering::Relaxed) {
        0 => Path::best(),
        index => Path::ALL[index - 1],
    }
}
