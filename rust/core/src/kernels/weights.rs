//! Noise into an array, and noise onto weights, one chunk at a time.
#![allow(
    clippy::inline_always,
    reason = "compiled into the kernels of every instruction set"
)]

use super::path::Work;
use super::rounding::LiveType;
use super::tile::{TILE, Tiles, noise};
use crate::noise::Stream;

/// out\[i\] = noise(element + i).
pub(super) struct Fill<'a> {
    pub stream: Stream,
    pub element: u64,
    pub out: &'a mut [f32],
}

impl Work for Fill<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let mut spare = [0.0; TILE];
        for span in Tiles::new(self.element, self.out.len()) {
            let out = &mut self.out[span.slice];
            // A whole tile goes straight to its place.
            if let Ok(whole) = <&mut [f32; TILE]>::try_from(&mut *out) {
                noise(&self.stream, span.block, whole);
            } else {
                noise(&self.stream, span.block, &mut spare);
                out.copy_from_slice(&spare[span.tile]);
            }
        }
    }
}

/// live\[i\] = round(fma(scale, noise(element + i), master\[i\])).
pub(super) struct Perturb<'a, L: LiveType> {
    pub stream: Stream,
    pub element: u64,
    pub scale: f32,
    pub live: &'a mut [L::Bits],
    pub master: &'a [f32],
}

impl<L: LiveType> Work for Perturb<'_, L> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let mut values = [0.0; TILE];
        for span in Tiles::new(self.element, self.master.len()) {
            noise(&self.stream, span.block, &mut values);
            let live = &mut self.live[span.slice.clone()];
            let master = &self.master[span.slice];
            for ((live, master), value) in live.iter_mut().zip(master).zip(&values[span.tile]) {
                *live = L::round(self.scale.mul_add(*value, *master));
            }
        }
    }
}

/// live\[i\] = round(master\[i\]).
pub(super) struct Round<'a, L: LiveType> {
    pub live: &'a mut [L::Bits],
    pub master: &'a [f32],
}

impl<L: LiveType> Work for Round<'_, L> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (live, master) in self.live.iter_mut().zip(self.master) {
            *live = L::round(*master);
        }
    }
}
