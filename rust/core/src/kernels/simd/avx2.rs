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

use super::{SQUARES, Simd, Squares};

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

/// Calls an intrinsic of AVX2 or FMA that works on registers only.
macro_rules! avx2 {
    ($call:expr) => {
        // SAFETY: `self` exists, so the machine has AVX2 and FMA; no memory is touched.
        unsafe { $call }
    };
}

/// An empty instruction that reads and writes these registers.
#[inline]
#[target_feature(enable = "avx2")]
fn pin(word: &mut [__m256i; 2], a: &mut __m256, b: &mut __m256) {
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

impl Simd for Avx2 {
    const LANES: usize = LANES;
    type Wide = [__m256i; 2];
    type Word = __m256i;
    type Product = [__m256i; 2];
    type Ints = __m256i;
    type Floats = __m256;

    /// In the order that [`Avx2::narrow`] and [`Avx2::interleave`] need.
    #[inline(always)]
    fn blocks(self, first: u32) -> Self::Wide {
        let first = avx2!(_mm256_set1_epi32(first.cast_signed()));
        [
            avx2!(_mm256_add_epi32(
                first,
                _mm256_setr_epi32(0, 0, 2, 0, 1, 0, 3, 0)
            )),
            avx2!(_mm256_add_epi32(
                first,
                _mm256_setr_epi32(4, 0, 6, 0, 5, 0, 7, 0)
            )),
        ]
    }

    #[inline(always)]
    fn word(self, value: u32) -> Self::Word {
        avx2!(_mm256_set1_epi32(value.cast_signed()))
    }

    #[inline(always)]
    fn product<const B: u32>(self, a: Self::Wide) -> Self::Product {
        let b = avx2!(_mm256_set1_epi64x(i64::from(B)));
        [
            avx2!(_mm256_mul_epu32(a[0], b)),
            avx2!(_mm256_mul_epu32(a[1], b)),
        ]
    }

    #[inline(always)]
    fn high(self, product: Self::Product) -> Self::Wide {
        [
            avx2!(_mm256_srli_epi64::<32>(product[0])),
            avx2!(_mm256_srli_epi64::<32>(product[1])),
        ]
    }

    #[inline(always)]
    fn low(self, product: Self::Product) -> Self::Wide {
        product
    }

    #[inline(always)]
    fn xor(self, a: Self::Wide, b: Self::Wide) -> Self::Wide {
        [
            avx2!(_mm256_xor_si256(a[0], b[0])),
            avx2!(_mm256_xor_si256(a[1], b[1])),
        ]
    }

    #[inline(always)]
    fn xor_word(self, a: Self::Wide, b: Self::Word) -> Self::Wide {
        self.xor(a, [b; 2])
    }

    #[inline(always)]
    fn pin(self, word: &mut Self::Wide, a: &mut Self::Floats, b: &mut Self::Floats) {
        avx2!(pin(word, a, b));
    }

    /// Even 32-bit lanes of both registers: blocks 0 2 4 6 in the lower half, 1 3 5 7 in the upper one.
    #[inline(always)]
    fn narrow(self, word: Self::Wide) -> Self::Ints {
        avx2!(_mm256_castps_si256(_mm256_shuffle_ps::<0b10_00_10_00>(
            _mm256_castsi256_ps(word[0]),
            _mm256_castsi256_ps(word[1])
        )))
    }

    #[inline(always)]
    fn int(self, value: u32) -> Self::Ints {
        avx2!(_mm256_set1_epi32(value.cast_signed()))
    }

    #[inline(always)]
    fn and(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        avx2!(_mm256_and_si256(a, b))
    }

    #[inline(always)]
    fn or(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        avx2!(_mm256_or_si256(a, b))
    }

    #[inline(always)]
    fn add_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        avx2!(_mm256_add_epi32(a, b))
    }

    #[inline(always)]
    fn sub_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        avx2!(_mm256_sub_epi32(a, b))
    }

    #[inline(always)]
    fn exponent(self, a: Self::Ints) -> Self::Ints {
        avx2!(_mm256_srai_epi32::<23>(a))
    }

    #[inline(always)]
    fn to_floats(self, a: Self::Ints) -> Self::Floats {
        avx2!(_mm256_cvtepi32_ps(a))
    }

    #[inline(always)]
    fn from_bits(self, a: Self::Ints) -> Self::Floats {
        avx2!(_mm256_castsi256_ps(a))
    }

    #[inline(always)]
    fn to_bits(self, a: Self::Floats) -> Self::Ints {
        avx2!(_mm256_castps_si256(a))
    }

    #[inline(always)]
    fn float(self, value: f32) -> Self::Floats {
        avx2!(_mm256_set1_ps(value))
    }

    #[inline(always)]
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        avx2!(_mm256_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        avx2!(_mm256_mul_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        avx2!(_mm256_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn sqrt(self, a: Self::Floats) -> Self::Floats {
        avx2!(_mm256_sqrt_ps(a))
    }

    #[inline(always)]
    fn xor_masked(self, a: Self::Ints, b: Self::Ints, mask: Self::Ints) -> Self::Ints {
        avx2!(_mm256_xor_si256(a, _mm256_and_si256(b, mask)))
    }

    /// A 4 x 4 transposition in each half: row j holds the blocks of lanes j and j + 4, which are 2 j and 2 j + 1.
    #[inline(always)]
    fn interleave(self, [n0, n1, n2, n3]: [Self::Floats; 4], out: &mut [f32]) {
        let (low01, high01) = avx2!((_mm256_unpacklo_ps(n0, n1), _mm256_unpackhi_ps(n0, n1)));
        let (low23, high23) = avx2!((_mm256_unpacklo_ps(n2, n3), _mm256_unpackhi_ps(n2, n3)));
        let rows = avx2!([
            _mm256_shuffle_ps::<0b01_00_01_00>(low01, low23),
            _mm256_shuffle_ps::<0b11_10_11_10>(low01, low23),
            _mm256_shuffle_ps::<0b01_00_01_00>(high01, high23),
            _mm256_shuffle_ps::<0b11_10_11_10>(high01, high23),
        ]);
        let out: &mut [f32; 4 * LANES] = out.try_into().expect("4 * LANES values");
        for (row, out) in rows.into_iter().zip(out.as_chunks_mut::<LANES>().0) {
            self.store(row, out);
        }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::Floats {
        let from: &[f32; LANES] = from.first_chunk().expect("LANES values");
        // SAFETY: `self` exists, so the machine has the instruction; `from` is long enough, no alignment is needed.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, value: Self::Floats, to: &mut [f32]) {
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
