//! Noise into an array, and noise onto weights, one chunk at a time.
#![allow(
    clippy::inline_always,
    reason = "compiled into the kernels of every instruction set"
)]

use bytemuck::Zeroable;

use super::path::Work;
use super::position::Position;
use super::rounding::{LiveType, magnitude};
use super::simd::Simd;
use super::stream::{Writer, fence, fetch_next, fetch_next_to_write, is_of_lines};
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

/// live\[i\] = round(fma(scale, noise of value `start + i`, master\[i\])); the number of live values that are not finite.
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
            fetch_next(master);
            let streams = past_cache && live.len() == TILE && is_of_lines(live);
            if !streams {
                fetch_next_to_write(live);
            }
            noise.tile(&span, &mut values);
            // Two calls, each with a closure of its own: one that both shared would be compiled for no instruction set.
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

/// live\[i\] = round(master\[i\]); the number of live values that are not finite.
pub(super) struct Round<'a, L: LiveType> {
    pub live: &'a mut [L::Bits],
    pub master: &'a [f32],
    pub past_cache: bool,
}

impl<L: LiveType> Work for Round<'_, L> {
    type Output = u64;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> u64 {
        let mut writer = Writer::new(simd, self.past_cache);
        let parts = self.live.chunks_mut(TILE).zip(self.master.chunks(TILE));
        parts
            .map(|(live, master)| {
                writer.write(live, |live| write::<L>(live, master, |_, master| master))
            })
            .sum()
    }
}

/// live\[i\] = round(value(i, master\[i\])); the number of live values that are not finite. If any
/// is, which is rare, all are written a second time.
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
