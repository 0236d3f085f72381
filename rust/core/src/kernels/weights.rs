//! Noise into an array, noise onto weights, and the digest of weights, one chunk at a time.

use bytemuck::Zeroable;

use super::naive::{digest_factor, digest_position};
use super::path::Work;
use super::position::Position;
use super::rounding::{LiveType, magnitude};
use super::simd::Simd;
use super::stream::{TO_READ, TO_WRITE, fence, fetch_next, is_of_lines};
use super::tile::{Single, TILE, Tiles};
use crate::noise::Stream;

/// out\[i\] = noise of value `start + i` of the position.
pub(super) struct Fill<'a> {
    pub stream: Stream,
    pub position: Position,
    pub start: u64,
    pub out: &'a mut [f32],
}

impl Work for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut noise = Single::new(simd, self.stream);
        let mut spare = [0.0; TILE];
        for span in Tiles::new(self.position, self.start, self.out.len()) {
            let out = &mut self.out[span.slice.clone()];
            // A whole tile is written to the output directly.
            if let Ok(whole) = <&mut [f32; TILE]>::try_from(&mut *out) {
                noise.tile(&span, whole);
            } else {
                noise.tile(&span, &mut spare);
                out.copy_from_slice(&spare[span.tile]);
            }
        }
    }
}

/// live\[i\] = round(fma(scale, noise of value `start + i`, master\[i\])); returns the number of live values that aren't
/// finite.
pub(super) struct Perturb<'a, L: LiveType> {
    pub stream: Stream,
    pub position: Position,
    pub start: u64,
    pub scale: f32,
    pub live: &'a mut [L::Bits],
    pub master: &'a [f32],
    pub past_cache: bool,
}

impl<L: LiveType> Work for Perturb<'_, L> {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u64 {
        let mut noise = Single::new(simd, self.stream);
        let mut values = [0.0; TILE];
        let mut spare = [L::Bits::zeroed(); TILE];
        let past_cache = self.past_cache && S::STREAMS_LINES;
        let mut nonfinite = 0;
        for span in Tiles::new(self.position, self.start, self.master.len()) {
            let live = &mut self.live[span.slice.clone()];
            let master = &self.master[span.slice.clone()];
            fetch_next::<TO_READ, _>(master);
            let streams = past_cache && live.len() == TILE && is_of_lines(live);
            if !streams {
                fetch_next::<TO_WRITE, _>(live);
            }
            noise.tile(&span, &mut values);
            // Two closures: a shared one would not be inlined, and so not be compiled for the instruction set.
            if streams {
                nonfinite += write::<L>(&mut spare, master, |i, master| {
                    self.scale.mul_add(values[i], master)
                });
                simd.stream(bytemuck::cast_slice(&spare), bytemuck::cast_slice_mut(live));
            } else {
                let values = &values[span.tile];
                nonfinite += write::<L>(live, master, |i, master| {
                    self.scale.mul_add(values[i], master)
                });
            }
        }
        if past_cache {
            fence();
        }
        nonfinite
    }
}

/// live\[i\] = round(master\[i\]); returns the number of live values that aren't finite.
pub(super) struct Round<'a, L: LiveType> {
    pub live: &'a mut [L::Bits],
    pub master: &'a [f32],
    pub past_cache: bool,
}

impl<L: LiveType> Work for Round<'_, L> {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u64 {
        let mut spare = [L::Bits::zeroed(); TILE];
        let mut nonfinite = 0;
        for (live, master) in self.live.chunks_mut(TILE).zip(self.master.chunks(TILE)) {
            if self.past_cache && is_of_lines(live) {
                let spare = &mut spare[..live.len()];
                nonfinite += write::<L>(spare, master, |_, master| master);
                simd.stream(bytemuck::cast_slice(spare), bytemuck::cast_slice_mut(live));
            } else {
                nonfinite += write::<L>(live, master, |_, master| master);
            }
        }
        if self.past_cache {
            fence();
        }
        nonfinite
    }
}

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

/// live\[i\] = round(value(i, master\[i\])); returns the number of live values that aren't finite. If there are any, which
/// is rare, all values are written a second time.
#[inline(always)]
pub(super) fn write<L: LiveType>(
    live: &mut [L::Bits],
    master: &[f32],
    value: impl Fn(usize, f32) -> f32,
) -> u64 {
    let mut largest = 0;
    for (i, (live, master)) in live.iter_mut().zip(master).enumerate() {
        let value = value(i, *master);
        largest = largest.max(magnitude(value));
        *live = L::round_finite(value);
    }
    if largest < L::OVERFLOW {
        return 0;
    }
    let mut nonfinite = 0;
    for (i, (live, master)) in live.iter_mut().zip(master).enumerate() {
        let value = value(i, *master);
        *live = L::round(value);
        nonfinite += u64::from(magnitude(value) >= L::OVERFLOW);
    }
    nonfinite
}
