//! Noise into an array, and noise onto weights, one chunk at a time.
#![allow(
    clippy::inline_always,
    reason = "compiled into the kernels of every instruction set"
)]

use super::path::Work;
use super::place::Place;
use super::rounding::LiveType;
use super::simd::Simd;
use super::tile::{Single, TILE, Tiles};
use crate::noise::Stream;

/// out\[i\] = noise of value `start + i` of the place.
pub(super) struct Fill<'a> {
    pub stream: Stream,
    pub place: Place,
    pub start: u64,
    pub out: &'a mut [f32],
}

impl Work for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let mut noise = Single::new(simd, self.stream);
        let mut spare = [0.0; TILE];
        for span in Tiles::new(self.place, self.start, self.out.len()) {
            let out = &mut self.out[span.slice.clone()];
            // A whole tile goes straight to its place.
            if let Ok(whole) = <&mut [f32; TILE]>::try_from(&mut *out) {
                noise.tile(&span, whole);
            } else {
                noise.tile(&span, &mut spare);
                out.copy_from_slice(&spare[span.tile]);
            }
        }
    }
}

/// live\[i\] = round(fma(scale, noise of value `start + i`, master\[i\])); how many are not finite.
pub(super) struct Perturb<'a, L: LiveType> {
    pub stream: Stream,
    pub place: Place,
    pub start: u64,
    pub scale: f32,
    pub live: &'a mut [L::Bits],
    pub master: &'a [f32],
}

impl<L: LiveType> Work for Perturb<'_, L> {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u64 {
        let mut noise = Single::new(simd, self.stream);
        let mut values = [0.0; TILE];
        let mut nonfinite = 0;
        for span in Tiles::new(self.place, self.start, self.master.len()) {
            noise.tile(&span, &mut values);
            let live = &mut self.live[span.slice.clone()];
            let master = &self.master[span.slice];
            let values = &values[span.tile];
            nonfinite += write::<L>(live, master, |i, master| {
                self.scale.mul_add(values[i], master)
            });
        }
        nonfinite
    }
}

/// live\[i\] = round(master\[i\]); how many are not finite.
pub(super) struct Round<'a, L: LiveType> {
    pub live: &'a mut [L::Bits],
    pub master: &'a [f32],
}

impl<L: LiveType> Work for Round<'_, L> {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> u64 {
        let parts = self.live.chunks_mut(TILE).zip(self.master.chunks(TILE));
        parts
            .map(|(live, master)| write::<L>(live, master, |_, master| master))
            .sum()
    }
}

/// live\[i\] = round(value(i, master\[i\])), fewer than 2^32 of them; how many are not finite.
#[inline(always)]
pub(super) fn write<L: LiveType>(
    live: &mut [L::Bits],
    master: &[f32],
    value: impl Fn(usize, f32) -> f32,
) -> u64 {
    let mut nonfinite = 0_u32;
    for (i, (live, master)) in live.iter_mut().zip(master).enumerate() {
        let value = value(i, *master);
        *live = L::round(value);
        nonfinite += u32::from(!L::stays_finite(value));
    }
    u64::from(nonfinite)
}
