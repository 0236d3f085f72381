//! The digest of one chunk.

use super::naive::{digest_factor, digest_position};
use super::path::Work;
use super::position::Position;
use super::simd::Simd;

/// As [`super::naive::digest`], for the values `start..` of a position.
pub(super) struct Digest<'a> {
    pub position: Position,
    pub start: u64,
    pub master: &'a [f32],
}

impl Work for Digest<'_> {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> u64 {
        let mut sum = 0_u64;
        for (element, part) in self.position.runs(self.start, self.master.len()) {
            let first = digest_position(self.position.address.tensor, element);
            for (i, value) in self.master[part].iter().enumerate() {
                let content = 2 * u64::from(value.to_bits()) + 1;
                sum = sum.wrapping_add(digest_factor(first + i as u64).wrapping_mul(content));
            }
        }
        sum
    }
}
