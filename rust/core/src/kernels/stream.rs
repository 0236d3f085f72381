//! Stores that go to memory past the cache: what is written and not read again soon would only be fetched into it first
//! and drive out what is needed. A third of the traffic of a copy is saved.
#![allow(
    clippy::inline_always,
    reason = "compiled into the kernels of every instruction set"
)]

use bytemuck::Pod;

use super::tile::TILE;

/// Bytes of live weights from which a call writes past the cache: the last-level caches of a core are smaller than the
/// tensors around one of this size, and a small model stays where its next reader finds it.
pub(super) const PAST_CACHE: usize = 4 << 20;

const LINE: usize = 64;

/// Writes slices of up to [`TILE`] values, in the usual way or past the cache.
pub(super) struct Writer<T> {
    past_cache: bool,
    spare: [T; TILE],
}

impl<T: Pod> Writer<T> {
    #[inline(always)]
    pub fn new(past_cache: bool) -> Self {
        Self {
            past_cache,
            spare: [T::zeroed(); TILE],
        }
    }

    /// Lets `make` write all of `out`, or as many values that are then copied there.
    #[inline(always)]
    pub fn write<R>(&mut self, out: &mut [T], make: impl Fn(&mut [T]) -> R) -> R {
        let bytes = size_of_val(out);
        if self.past_cache && bytes.is_multiple_of(LINE) && out.as_ptr().addr().is_multiple_of(LINE)
        {
            let spare = &mut self.spare[..out.len()];
            let result = make(spare);
            copy(bytemuck::cast_slice(spare), bytemuck::cast_slice_mut(out));
            result
        } else {
            make(out)
        }
    }
}

impl<T> Drop for Writer<T> {
    /// What was written can be read by other threads.
    #[inline(always)]
    fn drop(&mut self) {
        if self.past_cache {
            fence();
        }
    }
}

/// `to` begins with a line and is of whole lines.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn copy(from: &[u8], to: &mut [u8]) {
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

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn fence() {
    // SAFETY: every x86-64 has SSE.
    unsafe { std::arch::x86_64::_mm_sfence() }
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn copy(from: &[u8], to: &mut [u8]) {
    to.copy_from_slice(from);
}

#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
fn fence() {}

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
