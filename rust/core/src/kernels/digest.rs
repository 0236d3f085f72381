//! The digest of one chunk.
#![allow(
    clippy::inline_always,
    reason = "compiled into the kernels of every instruction set"
)]

use super::naive::{digest_factor, digest_place};
use super::path::Work;

/// As [`super::naive::digest`].
pub(super) struct Digest<'a> {
    pub tensor: u32,
    pub element: u64,
    pub master: &'a [f32],
}

impl Work for Digest<'_> {
    type Output = u64;

    #[inline(always)]
    fn run(self) -> u64 {
        let first = digest_place(self.tensor, self.element);
        let mut sum = 0_u64;
        for (i, value) in self.master.iter().enumerate() {
            let content = 2 * u64::from(value.to_bits()) + 1;
            sum = sum.wrapping_add(digest_factor(first + i as u64).wrapping_mul(content));
        }
        sum
    }
}
