//! Stores that go to memory past the cache: values that aren't read again soon would first be fetched into the cache and
//! displace others. This saves a third of the traffic of a copy.
#![allow(
    clippy::inline_always,
    reason = "compiled into the kernels of every instruction set"
)]

use bytemuck::Pod;

use super::simd::Simd;
use super::tile::TILE;

/// Bytes of live weights from which a call writes past the cache: the last-level caches of a core are smaller than the
/// tensors around one of this size, and a small model stays where its next reader finds it.
pub(super) const PAST_CACHE: usize = 4 << 20;

/// Bytes of a line of memory.
pub(super) const LINE: usize = 64;

/// Writes slices of up to [`TILE`] values, in the usual way or past the cache.
pub(super) struct Writer<S: Simd, T> {
    simd: S,
    past_cache: bool,
    spare: [T; TILE],
}

impl<S: Simd, T: Pod> Writer<S, T> {
    #[inline(always)]
    pub fn new(simd: S, past_cache: bool) -> Self {
        Self {
            simd,
            past_cache,
            spare: [T::zeroed(); TILE],
        }
    }

    /// Lets `make` write all of `out`, or as many values that are then copied there.
    #[inline(always)]
    pub fn write<R>(&mut self, out: &mut [T], make: impl Fn(&mut [T]) -> R) -> R {
        if self.past_cache && is_of_lines(out) {
            let spare = &mut self.spare[..out.len()];
            let result = make(spare);
            self.simd
                .stream(bytemuck::cast_slice(spare), bytemuck::cast_slice_mut(out));
            result
        } else {
            make(out)
        }
    }
}

impl<S: Simd, T> Drop for Writer<S, T> {
    /// Makes the written values visible to other threads.
    #[inline(always)]
    fn drop(&mut self) {
        if self.past_cache {
            fence();
        }
    }
}

/// Whether a slice begins with a line of memory and is of whole ones.
#[inline(always)]
pub(super) fn is_of_lines<T>(slice: &[T]) -> bool {
    slice.as_ptr().addr().is_multiple_of(LINE) && size_of_val(slice).is_multiple_of(LINE)
}

/// `to` begins with a line and is of whole lines.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn copy(from: &[u8], to: &mut [u8]) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
    const SIZE: usize = size_of::<__m128i>();
    for (from, to) in from
        .as_chunks::<SIZE>()
        .0
        .iter()
        .zip(to.as_chunks_mut::<SIZE>().0)
    {
        // SAFETY: every x86-64 has SSE2; both chunks are of 16 bytes, and `to`, 16 n bytes after a line's begin, is aligned.
        unsafe {
            _mm_stream_si128(
                to.as_mut_ptr().cast(),
                _mm_loadu_si128(from.as_ptr().cast()),
            );
        }
    }
}

/// Makes the streamed values visible to other threads.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn fence() {
    // SAFETY: every x86-64 has SSE.
    unsafe { std::arch::x86_64::_mm_sfence() }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(super) fn copy(from: &[u8], to: &mut [u8]) {
    to.copy_from_slice(from);
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(super) fn fence() {}

/// Starts to bring the values after these, as many, into the cache, to be read.
#[inline(always)]
pub(super) fn fetch_next<T>(values: &[T]) {
    each_next_line(values, |line| {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: every x86-64 has SSE; a prefetch can't fault, wherever it points.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = line;
    });
}

/// Starts to bring the values after these, as many, into the cache, to be written.
#[inline(always)]
pub(super) fn fetch_next_to_write<T>(values: &[T]) {
    each_next_line(values, |line| {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
            // SAFETY: as for `fetch_next`.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(line) }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = line;
    });
}

#[inline(always)]
fn each_next_line<T>(values: &[T], fetch: impl Fn(*const i8)) {
    let size = size_of_val(values);
    for offset in (size..2 * size).step_by(LINE) {
        fetch(values.as_ptr().cast::<i8>().wrapping_add(offset));
    }
}
