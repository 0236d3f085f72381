//! One instruction set per path, chosen once at run time; tests and benches can force each.
//!
//! The paths share one body of portable Rust: [`Path::run`] calls it inside a function that is compiled for the path's
//! instruction set, and the compiler vectorises the loops there. Rust never contracts `a * b + c` into an fma, so the
//! bits don't depend on the path.

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// The target's baseline. On x86-64 an fma is then a call into libm: right, and slow.
    Plain,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, DQ, BW and VL.
    Avx512,
}

/// A piece of work that [`Path::run`] compiles once per path. Implement `run` with `#[inline(always)]`, and everything
/// it calls: only what is inlined is compiled for the path.
pub(super) trait Work {
    type Output;
    fn run(self) -> Self::Output;
}

impl Path {
    /// Every path, slowest first.
    pub const ALL: [Self; 3] = [Self::Plain, Self::Avx2, Self::Avx512];

    /// The fastest path of this machine.
    pub fn best() -> Self {
        let mut best = Self::Plain;
        for path in Self::ALL {
            if path.is_available() {
                best = path;
            }
        }
        best
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
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
        }
    }

    /// Does the work, compiled for this path; on the baseline if this machine lacks the path.
    pub(super) fn run<W: Work>(self, work: W) -> W::Output {
        if !self.is_available() {
            return work.run();
        }
        match self {
            Self::Plain => work.run(),
            // SAFETY: `is_available` found AVX2 and FMA on this machine.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2(work) },
            // SAFETY: `is_available` found AVX2, FMA and AVX-512 F, DQ, BW and VL on this machine.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512(work) },
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => work.run(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2<W: Work>(work: W) -> W::Output {
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")]
fn avx512<W: Work>(work: W) -> W::Output {
    work.run()
}
