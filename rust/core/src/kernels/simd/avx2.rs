//! AVX2 and FMA: eight lanes.
//!
//! A Philox word of eight blocks is two registers of four 64-bit lanes. The lower half of a lane holds the word; the upper
//! half holds leftovers of the last product, which the multiplication ignores. So a round costs two multiplications, two
//! shifts and four xors per four blocks, and no shuffle.

use std::arch::asm;
use std::arch::x86_64::{
    __m256, __m256i, _mm_loadu_ps, _mm256_add_epi32, _mm256_and_si256, _mm256_castps_si256,
    _mm256_castsi256_ps, _mm256_cvtepi32_ps, _mm256_cvtps_pd, _mm256_fmadd_pd, _mm256_fmadd_ps,
    _mm256_loadu_pd, _mm256_loadu_ps, _mm256_mul_epu32, _mm256_mul_ps, _mm256_or_si256,
    _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_set1_ps, _mm256_setr_epi32, _mm256_shuffle_ps,
    _mm256_sqrt_ps, _mm256_srai_epi32, _mm256_srli_epi64, _mm256_storeu_pd, _mm256_storeu_ps,
    _mm256_sub_epi32, _mm256_sub_ps, _mm256_unpackhi_ps, _mm256_unpacklo_ps, _mm256_xor_si256,
};

use super::{Integers, SQUARES, Simd, Squares};

/// One word of every block: see the description of the file.
type Wide = [__m256i; 2];

const LANES: usize = 8;

/// Only [`Avx2::new`] creates a value.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The machine must have AVX2 and FMA.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        Self(())
    }
}

/// An empty instruction that reads and writes these registers.
#[inline]
#[target_feature(enable = "avx2")]
fn pin(word: &mut Wide, a: &mut __m256, b: &mut __m256) {
    let [low, high] = word;
    // SAFETY: no instruction at all.
    unsafe {
        asm!(
            "/* {0} {1} {2} {3} */",
            inout(ymm_reg) * low,
            inout(ymm_reg) * high,
            inout(ymm_reg) * a,
            inout(ymm_reg) * b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
}

impl Integers for Avx2 {
    const LANES: usize = LANES;
    type Wide = Wide;
    type Word = __m256i;
    type Product = Wide;
    type Ints = __m256i;

    operations! {
        /// In the order that [`Avx2::narrow`] and [`Avx2::interleave`] need.
        blocks(first: u32) -> Wide = {
            let first = _mm256_set1_epi32(first.cast_signed());
            [
                _mm256_add_epi32(first, _mm256_setr_epi32(0, 0, 2, 0, 1, 0, 3, 0)),
                _mm256_add_epi32(first, _mm256_setr_epi32(4, 0, 6, 0, 5, 0, 7, 0)),
            ]
        };
        word(value: u32) -> __m256i = _mm256_set1_epi32(value.cast_signed());
        high(a: Wide) -> Wide = [_mm256_srli_epi64::<32>(a[0]), _mm256_srli_epi64::<32>(a[1])];
        low(a: Wide) -> Wide = a;
        xor(a: Wide, b: Wide) -> Wide = [_mm256_xor_si256(a[0], b[0]), _mm256_xor_si256(a[1], b[1])];
        xor_word(a: Wide, b: __m256i) -> Wide = [_mm256_xor_si256(a[0], b), _mm256_xor_si256(a[1], b)];
        /// Even 32-bit lanes of both registers: blocks 0 2 4 6 in the lower half, 1 3 5 7 in the upper one.
        narrow(a: Wide) -> __m256i = _mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(
            _mm256_castsi256_ps(a[0]),
            _mm256_castsi256_ps(a[1]),
        ));
        int(value: u32) -> __m256i = _mm256_set1_epi32(value.cast_signed());
        and(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256(a, b);
        or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
        add_ints(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32(a, b);
        sub_ints(a: __m256i, b: __m256i) -> __m256i = _mm256_sub_epi32(a, b);
        exponent(a: __m256i) -> __m256i = _mm256_srai_epi32::<23>(a);
        xor_masked(a: __m256i, b: __m256i, mask: __m256i) -> __m256i = _mm256_xor_si256(a, _mm256_and_si256(b, mask));
    }

    #[inline(always)]
    fn product<const B: u32>(self, a: Wide) -> Wide {
        // SAFETY: as in `operations`.
        unsafe {
            let b = _mm256_set1_epi64x(i64::from(B));
            [_mm256_mul_epu32(a[0], b), _mm256_mul_epu32(a[1], b)]
        }
    }
}

impl Simd for Avx2 {
    type Floats = __m256;

    operations! {
        to_floats(a: __m256i) -> __m256 = _mm256_cvtepi32_ps(a);
        from_bits(a: __m256i) -> __m256 = _mm256_castsi256_ps(a);
        to_bits(a: __m256) -> __m256i = _mm256_castps_si256(a);
        pin(word: &mut Wide, a: &mut __m256, b: &mut __m256) -> () = pin(word, a, b);
        float(value: f32) -> __m256 = _mm256_set1_ps(value);
        sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
        mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
        fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
        sqrt(a: __m256) -> __m256 = _mm256_sqrt_ps(a);
    }

    /// A 4 x 4 transposition in each half: row j holds the blocks of lanes j and j + 4, which are 2 j and 2 j + 1.
    #[inline(always)]
    fn interleave(self, [n0, n1, n2, n3]: [__m256; 4], out: &mut [f32]) {
        // SAFETY: as in `operations`.
        let rows = unsafe {
            let (low01, high01) = (_mm256_unpacklo_ps(n0, n1), _mm256_unpackhi_ps(n0, n1));
            let (low23, high23) = (_mm256_unpacklo_ps(n2, n3), _mm256_unpackhi_ps(n2, n3));
            [
                _mm256_shuffle_ps::<0b01_00_01_00>(low01, low23),
                _mm256_shuffle_ps::<0b11_10_11_10>(low01, low23),
                _mm256_shuffle_ps::<0b01_00_01_00>(high01, high23),
                _mm256_shuffle_ps::<0b11_10_11_10>(high01, high23),
            ]
        };
        let out: &mut [f32; 4 * LANES] = out.try_into().expect("4 * LANES values");
        for (row, out) in rows.into_iter().zip(out.as_chunks_mut::<LANES>().0) {
            self.store(row, out);
        }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m256 {
        let from: &[f32; LANES] = from.first_chunk().expect("LANES values");
        // SAFETY: `self` exists, so the machine has the instruction; `from` is long enough, no alignment is needed.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, value: __m256, to: &mut [f32]) {
        let to: &mut [f32; LANES] = to.first_chunk_mut().expect("LANES values");
        // SAFETY: as for `load`.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn add_squares(self, intended: &[f32; SQUARES], actual: &[f32; SQUARES], totals: &mut Squares) {
        for half in 0..2 {
            let start = half * (SQUARES / 2);
            // SAFETY: `self` exists, so the machine has AVX2 and FMA; every access stays within eight values.
            unsafe {
                let u = _mm256_cvtps_pd(_mm_loadu_ps(intended.as_ptr().add(start)));
                let d = _mm256_cvtps_pd(_mm_loadu_ps(actual.as_ptr().add(start)));
                for (total, (a, b)) in totals.iter_mut().zip([(u, u), (d, d), (u, d)]) {
                    let total = total.as_mut_ptr().add(start);
                    _mm256_storeu_pd(total, _mm256_fmadd_pd(a, b, _mm256_loadu_pd(total)));
                }
            }
        }
    }
}
