//! The position of weights in their tensor: a run of elements, rows of a shard, or a block of a matrix with low-rank noise.

use std::ops::Range;

use super::{KernelError, LowRank};
use crate::noise::{Kind, NoiseAddress, Stream};

/// The weights that a kernel works on. The type decides the kind of their noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Dense noise.
    Dense(Position),
    /// Low-rank noise.
    LowRank(LowRank),
}

impl<P: Into<Position>> From<P> for At {
    fn from(position: P) -> Self {
        Self::Dense(position.into())
    }
}

impl From<LowRank> for At {
    fn from(matrix: LowRank) -> Self {
        Self::LowRank(matrix)
    }
}

/// Value i is element `address.element + (i / columns) * stride + i % columns` of the whole tensor.
///
/// A [`NoiseAddress`] alone is a run of consecutive elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The first value; the kernels of an update ignore its `pair`.
    pub address: NoiseAddress,
    /// Values per row; `u64::MAX` for a run.
    pub columns: u64,
    /// Elements from the first value of a row to the first of the next; at least `columns`.
    pub stride: u64,
}

impl From<NoiseAddress> for Position {
    fn from(address: NoiseAddress) -> Self {
        Self::run(address)
    }
}

impl Position {
    /// Consecutive elements, from the address on.
    pub const fn run(address: NoiseAddress) -> Self {
        Self {
            address,
            columns: u64::MAX,
            stride: u64::MAX,
        }
    }

    /// Checks that `count` values from this position on have addresses.
    ///
    /// # Errors
    /// [`KernelError::Rows`] for rows that overlap, are empty or don't fill the slice; [`KernelError::Address`].
    pub fn check(&self, count: usize) -> Result<(), KernelError> {
        self.stream(Kind::Dense, count).map(|_| ())
    }

    /// The noise of the tensor, checked for `count` values from this position on.
    ///
    /// # Errors
    /// As [`Position::check`].
    pub(super) fn stream(&self, kind: Kind, count: usize) -> Result<Stream, KernelError> {
        let Self {
            address,
            columns,
            stride,
        } = *self;
        if self.is_run() {
            return Ok(address.stream(kind, count)?);
        }
        let rows = KernelError::Rows {
            columns,
            stride,
            count,
        };
        if columns == 0 || stride < columns || !(count as u64).is_multiple_of(columns) {
            return Err(rows);
        }
        // The last row alone: it ends where all rows end.
        let last = (count as u64 / columns).saturating_sub(1);
        let element = last
            .checked_mul(stride)
            .and_then(|offset| address.element.checked_add(offset))
            .ok_or(rows)?;
        let end = NoiseAddress { element, ..address };
        Ok(end.stream(kind, usize::try_from(columns).unwrap_or(count).min(count))?)
    }

    pub(super) fn is_run(&self) -> bool {
        self.columns == u64::MAX && self.stride == u64::MAX
    }

    /// The element of value `index`, and the number of values from there to the end of its row.
    #[inline(always)]
    pub(super) fn element_at(&self, index: u64) -> (u64, u64) {
        if self.is_run() {
            return (self.address.element + index, u64::MAX);
        }
        let (row, column) = (index / self.columns, index % self.columns);
        (
            self.address.element + row * self.stride + column,
            self.columns - column,
        )
    }

    /// The values `start..start + len` as runs of consecutive elements: (first element, part of the values).
    #[inline(always)]
    pub(super) fn runs(self, start: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            if done == len {
                return None;
            }
            let (element, left) = self.element_at(start + done as u64);
            let count = (len - done).min(usize::try_from(left).unwrap_or(usize::MAX));
            done += count;
            Some((element, done - count..done))
        })
    }
}
