//! The address of a noise value, and the Philox counter and key of each address.
//!
//! | word | bits | content |
//! |------|------|---------|
//! | key 0, key 1 | 64 | run seed, low half first |
//! | c0 | 32 | block index, low 32 bits |
//! | c1 | 4 + 20 + 8 | kind (bits 31..28), tensor (27..8), block index bits 32..39 (7..0) |
//! | c2 | 32 | pair |
//! | c3 | 32 | iteration |
//!
//! Block index = element / 4. The map is injective: nothing is ever added to a seed.

use thiserror::Error;

use super::{normals, philox4x32};

/// Tensor indices are below this number: 20 bits.
pub const MAX_TENSORS: u32 = 1 << 20;

/// Element indices are below this number: 40 bits of block index, four elements per block.
pub const MAX_ELEMENTS: u64 = 1 << 42;

/// The start of a run of noise values. Element indices are those of the whole, unsharded tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NoiseAddress {
    /// Seed of the run; every value is valid, 0 as well.
    pub run_seed: u64,
    /// Iteration of the run.
    pub iteration: u32,
    /// Noise pair within the iteration; mirrored members share a pair.
    pub pair: u32,
    /// Index of the tensor in the parameter table.
    pub tensor: u32,
    /// First element.
    pub element: u64,
}

/// What the values at an address are used for; kinds never share values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// One value per weight.
    Dense = 0,
    /// Left factor A (out, rank) of a low-rank perturbation, row by row.
    LowRankA = 1,
    /// Right factor B (in, rank) of a low-rank perturbation, row by row.
    LowRankB = 2,
}

/// An address out of range.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoiseError {
    /// The tensor index needs more than 20 bits.
    #[error("`tensor` must be < {MAX_TENSORS} (2^20), got {0}")]
    Tensor(u32),
    /// The last element needs more than 42 bits.
    #[error(
        "elements must end at or before {MAX_ELEMENTS} (2^42), got {count} from `element` = {element}"
    )]
    Element {
        /// First element.
        element: u64,
        /// Number of elements.
        count: u64,
    },
}

impl NoiseAddress {
    /// The noise of the tensor of this address, checked for `count` elements from `element` on.
    ///
    /// # Errors
    /// [`NoiseError`] if the tensor or the last element is out of range.
    pub fn stream(&self, kind: Kind, count: usize) -> Result<Stream, NoiseError> {
        let (element, count) = (self.element, count as u64);
        if self.tensor >= MAX_TENSORS {
            return Err(NoiseError::Tensor(self.tensor));
        }
        if element
            .checked_add(count)
            .is_none_or(|end| end > MAX_ELEMENTS)
        {
            return Err(NoiseError::Element { element, count });
        }
        Ok(Stream {
            key: [self.run_seed as u32, (self.run_seed >> 32) as u32],
            high: ((kind as u32) << 28) | (self.tensor << 8),
            pair: self.pair,
            iteration: self.iteration,
        })
    }
}

/// A checked address without its element: all blocks of the noise of one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Philox key.
    pub key: [u32; 2],
    /// Kind and tensor, shifted for counter word 1.
    pub high: u32,
    /// Counter word 2.
    pub pair: u32,
    /// Counter word 3.
    pub iteration: u32,
}

impl Stream {
    /// The Philox counter of one block; `block` < 2^40.
    pub fn counter(&self, block: u64) -> [u32; 4] {
        [
            block as u32,
            self.high | (block >> 32) as u32,
            self.pair,
            self.iteration,
        ]
    }

    /// The four normals of one block.
    pub fn block(&self, block: u64) -> [f32; 4] {
        normals(philox4x32(self.counter(block), self.key))
    }
}
