//! The errors of the kernels.

use thiserror::Error;

use super::Path;
use super::low_rank::MAX_RANK;
use super::pool::MAX_THREADS;
use crate::noise::NoiseError;

/// Why a kernel refuses its arguments. It has written nothing then.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KernelError {
    /// The address is out of range.
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
    /// Rows that overlap, are empty or don't fill the slice.
    #[error(
        "`stride` must be at least `columns`, and `columns` divide the number of values, \
         got {stride}, {columns} and {count}"
    )]
    Rows {
        /// Values per row.
        columns: u64,
        /// Elements from the start of a row to the start of the next.
        stride: u64,
        /// Values.
        count: usize,
    },
    /// A rank of 0, or above [`MAX_RANK`].
    #[error("`rank` must be in [1, {MAX_RANK}], got {0}")]
    Rank(usize),
    /// The shape of the block doesn't match the slice.
    #[error("a block of {rows} x {columns} weights can't have {values} values")]
    Shape {
        /// Rows of the block.
        rows: usize,
        /// Columns of the block.
        columns: usize,
        /// Values of the slice.
        values: usize,
    },
    /// Pairs and coefficients differ in number.
    #[error("`pairs` and `coefficients` must have the same length, got {pairs} and {coefficients}")]
    Coefficients {
        /// Number of pairs.
        pairs: usize,
        /// Number of coefficients.
        coefficients: usize,
    },
    /// The rows of a batch don't fit each other or the factors.
    #[error("{0}")]
    Batch(String),
    /// No live type has this name.
    #[error("`dtype` must be \"float32\", \"bfloat16\" or \"float16\", got {0:?}")]
    Dtype(String),
    /// This machine lacks the instruction set.
    #[error("this machine can't run the \"{}\" kernels", .0.name())]
    Path(Path),
    /// No instruction set has this name.
    #[error("the kernels' path must be \"plain\", \"neon\", \"avx2\" or \"avx512\", got {0:?}")]
    PathName(String),
    /// More than [`MAX_THREADS`] threads.
    #[error("kernel threads must be 0 (one per core) to {MAX_THREADS}, got {0}")]
    ThreadCount(usize),
    /// The system refused the threads.
    #[error("can't start the kernel threads: {0}")]
    Threads(String),
}
