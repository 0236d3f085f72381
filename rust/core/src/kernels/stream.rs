//! Stores that bypass the cache. A normal store first fetches the line into the cache and displaces another one; values
//! that aren't read again soon need neither. This saves a third of the traffic of a copy.

/// Bytes of live weights from which a call bypasses the cache. Smaller tensors stay in the cache, where the next reader
/// finds them.
pub(super) const PAST_CACHE: usize = 4 << 20;

/// Bytes of a line of memory.
pub(super) const LINE: usize = 64;

/// Whether a slice begins at a line of memory and consists of whole lines.
#[inline(always)]
pub(super) fn is_of_lines<T>(slice: &[T]) -> bool {
    slice.as_ptr().addr().is_multiple_of(LINE) && size_of_val(slice).is_multiple_of(LINE)
}

/// to = from, past the cache. `to` begins at a line of memory and consists of whole lines.
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
        // SAFETY: every x86-64 has SSE2; both chunks are of 16 bytes, and `to`, a multiple of 16 bytes behind a line's begin, is aligned.
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

/// Hint of [`fetch`]: the values will be read. The number is that of x86-64's instruction.
pub(super) const TO_READ: i32 = 3;
/// Hint of [`fetch`]: the values will be written.
pub(super) const TO_WRITE: i32 = 7;

/// Starts to bring the memory behind these values, of the same size, into the cache.
#[inline(always)]
pub(super) fn fetch_next<const HINT: i32, T>(values: &[T]) {
    fetch::<HINT, T>(values.as_ptr().wrapping_add(values.len()), values.len());
}

/// Starts to bring `count` values into the cache. Not all of them need exist.
#[inline(always)]
pub(super) fn fetch<const HINT: i32, T>(first: *const T, count: usize) {
    for offset in (0..count * size_of::<T>()).step_by(LINE) {
        let line = first.cast::<i8>().wrapping_add(offset);
        // SAFETY: every x86-64 has SSE; a prefetch can't fault, wherever it points.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            std::arch::x86_64::_mm_prefetch::<HINT>(line);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = line;
    }
}
