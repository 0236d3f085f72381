//! What the kernels refuse.

use thiserror::Error;

use super::Path;
use super::pool::MAX_THREADS;
use crate::noise::NoiseError;

/// An argument that a kernel refuses, before it writes anything.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KernelError {
    /// The address is outside the contract.
    #[error(transparent)]
    Address(#[from] NoiseError),
    /// Live and master differ in length.
    #[error("`live` and `master` must have the same number of elements, got {live} and {master}")]
    Length {
        /// Elements of live.
        live: usize,
        /// Elements of master.
        master: usize,
    },
    /// Pairs and coefficients differ in number.
    #[error("`pairs` and `coefficients` must have the same length, got {pairs} and {coefficients}")]
    Coefficients {
        /// Number of pairs.
        pairs: usize,
        /// Number of coefficients.
        coefficients: usize,
    },
    /// No live type has this name.
    #[error("`dtype` must be \"float32\", \"bfloat16\" or \"float16\", got {0:?}")]
    Dtype(String),
    /// This machine lacks the instruction set.
    #[error("this machine can't run the {0:?} kernels")]
    Path(Path),
    /// More threads than anyone needs.
    #[error("kernel threads must be 0 (one per core) to {MAX_THREADS}, got {0}")]
    ThreadCount(usize),
    /// The system refused the threads.
    #[error("can't start the kernel threads: {0}")]
    Threads(String),
}
