//! AVX-512 F: sixteen lanes.
//!
//! As in `avx2`, with a three-input xor: a round costs two multiplications, two shifts and two xors per eight blocks.

use std::arch::asm;
use std::arch::x86_64::{
    __m512, __m512i, _mm256_loadu_ps, _mm512_add_epi32, _mm512_and_si512, _mm512_castps_si512,
    _mm512_castsi512_ps, _mm512_cvtepi32_ps, _mm512_cvtps_pd, _mm512_fmadd_pd, _mm512_fmadd_ps,
    _mm512_loadu_pd, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_mul_epu32, _mm512_mul_ps,
    _mm512_or_si512, _mm512_set1_epi32, _mm512_set1_epi64, _mm512_set1_ps, _mm512_setr_epi32,
    _mm512_shuffle_ps, _mm512_sqrt_ps, _mm512_srai_epi32, _mm512_srli_epi64, _mm512_storeu_pd,
    _mm512_storeu_ps, _mm512_stream_si512, _mm512_sub_epi32, _mm512_sub_ps,
    _mm512_ternarylogic_epi32, _mm512_unpackhi_ps, _mm512_unpacklo_ps, _mm512_xor_si512,
};

use super::{SQUARES, Simd, Squares};
use crate::kernels::stream::LINE;

const LANES: usize = 16;
/// Truth table of a ^ b ^ c.
const XOR3: i32 = 0b1001_0110;
/// Truth table of a ^ (b & c).
const XOR_AND: i32 = 0b0111_1000;

/// Only [`Avx512::new`] creates a value.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The machine must have AVX-512 F.
    #[inline(always)]
    pub unsafe fn new() -> Self {
        Self(())
    }
}

/// Calls an intrinsic of AVX-512 F that works on registers only.
macro_rules! avx512 {
    ($call:expr) => {
        // SAFETY: `self` exists, so the machine has AVX-512 F; no memory is touched.
        unsafe { $call }
    };
}

/// An empty instruction that reads and writes these registers.
#[inline]
#[target_feature(enable = "avx512f")]
fn pin(word: &mut [__m512i; 2], a: &mut __m512, b: &mut __m512) {
    let [low, high] = word;
    // SAFETY: no instruction at all.
    unsafe {
        asm!(
            "/* {0} {1} {2} {3} */",
            inout(zmm_reg) * low,
            inout(zmm_reg) * high,
            inout(zmm_reg) * a,
            inout(zmm_reg) * b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
}

impl Simd for Avx512 {
    const LANES: usize = LANES;
    type Wide = [__m512i; 2];
    type Word = __m512i;
    type Product = [__m512i; 2];
    type Ints = __m512i;
    type Floats = __m512;

    /// In the order that [`Avx512::narrow`] and [`Avx512::interleave`] need.
    #[inline(always)]
    fn blocks(self, first: u32) -> Self::Wide {
        let first = avx512!(_mm512_set1_epi32(first.cast_signed()));
        [
            avx512!(_mm512_add_epi32(
                first,
                _mm512_setr_epi32(0, 0, 4, 0, 1, 0, 5, 0, 2, 0, 6, 0, 3, 0, 7, 0)
            )),
            avx512!(_mm512_add_epi32(
                first,
                _mm512_setr_epi32(8, 0, 12, 0, 9, 0, 13, 0, 10, 0, 14, 0, 11, 0, 15, 0)
            )),
        ]
    }

    #[inline(always)]
    fn word(self, value: u32) -> Self::Word {
        avx512!(_mm512_set1_epi32(value.cast_signed()))
    }

    #[inline(always)]
    fn product<const B: u32>(self, a: Self::Wide) -> Self::Product {
        let b = avx512!(_mm512_set1_epi64(i64::from(B)));
        [
            avx512!(_mm512_mul_epu32(a[0], b)),
            avx512!(_mm512_mul_epu32(a[1], b)),
        ]
    }

    #[inline(always)]
    fn high(self, product: Self::Product) -> Self::Wide {
        [
            avx512!(_mm512_srli_epi64::<32>(product[0])),
            avx512!(_mm512_srli_epi64::<32>(product[1])),
        ]
    }

    #[inline(always)]
    fn low(self, product: Self::Product) -> Self::Wide {
        product
    }

    #[inline(always)]
    fn xor(self, a: Self::Wide, b: Self::Wide) -> Self::Wide {
        [
            avx512!(_mm512_xor_si512(a[0], b[0])),
            avx512!(_mm512_xor_si512(a[1], b[1])),
        ]
    }

    #[inline(always)]
    fn xor_word(self, a: Self::Wide, b: Self::Word) -> Self::Wide {
        self.xor(a, [b; 2])
    }

    #[inline(always)]
    fn xor3(self, a: Self::Wide, b: Self::Wide, c: Self::Word) -> Self::Wide {
        [
            avx512!(_mm512_ternarylogic_epi32::<XOR3>(a[0], b[0], c)),
            avx512!(_mm512_ternarylogic_epi32::<XOR3>(a[1], b[1], c)),
        ]
    }

    #[inline(always)]
    fn pin(self, word: &mut Self::Wide, a: &mut Self::Floats, b: &mut Self::Floats) {
        avx512!(pin(word, a, b));
    }

    /// Even 32-bit lanes of both registers: quarter h holds the blocks h, 4 + h, 8 + h, 12 + h.
    #[inline(always)]
    fn narrow(self, word: Self::Wide) -> Self::Ints {
        avx512!(_mm512_castps_si512(_mm512_shuffle_ps::<0b10_00_10_00>(
            _mm512_castsi512_ps(word[0]),
            _mm512_castsi512_ps(word[1])
        )))
    }

    #[inline(always)]
    fn int(self, value: u32) -> Self::Ints {
        avx512!(_mm512_set1_epi32(value.cast_signed()))
    }

    #[inline(always)]
    fn and(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        avx512!(_mm512_and_si512(a, b))
    }

    #[inline(always)]
    fn or(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        avx512!(_mm512_or_si512(a, b))
    }

    #[inline(always)]
    fn add_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        avx512!(_mm512_add_epi32(a, b))
    }

    #[inline(always)]
    fn sub_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        avx512!(_mm512_sub_epi32(a, b))
    }

    #[inline(always)]
    fn exponent(self, a: Self::Ints) -> Self::Ints {
        avx512!(_mm512_srai_epi32::<23>(a))
    }

    #[inline(always)]
    fn to_floats(self, a: Self::Ints) -> Self::Floats {
        avx512!(_mm512_cvtepi32_ps(a))
    }

    #[inline(always)]
    fn from_bits(self, a: Self::Ints) -> Self::Floats {
        avx512!(_mm512_castsi512_ps(a))
    }

    #[inline(always)]
    fn to_bits(self, a: Self::Floats) -> Self::Ints {
        avx512!(_mm512_castps_si512(a))
    }

    #[inline(always)]
    fn float(self, value: f32) -> Self::Floats {
        avx512!(_mm512_set1_ps(value))
    }

    #[inline(always)]
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        avx512!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        avx512!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        avx512!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn sqrt(self, a: Self::Floats) -> Self::Floats {
        avx512!(_mm512_sqrt_ps(a))
    }

    #[inline(always)]
    fn xor_masked(self, a: Self::Ints, b: Self::Ints, mask: Self::Ints) -> Self::Ints {
        avx512!(_mm512_ternarylogic_epi32::<XOR_AND>(a, b, mask))
    }

    /// A 4 x 4 transposition in each quarter: row j holds the blocks of lanes j, j + 4, j + 8, j + 12, which are 4 j to
    /// 4 j + 3.
    #[inline(always)]
    fn interleave(self, [n0, n1, n2, n3]: [Self::Floats; 4], out: &mut [f32]) {
        let (low01, high01) = avx512!((_mm512_unpacklo_ps(n0, n1), _mm512_unpackhi_ps(n0, n1)));
        let (low23, high23) = avx512!((_mm512_unpacklo_ps(n2, n3), _mm512_unpackhi_ps(n2, n3)));
        let rows = avx512!([
            _mm512_shuffle_ps::<0b01_00_01_00>(low01, low23),
            _mm512_shuffle_ps::<0b11_10_11_10>(low01, low23),
            _mm512_shuffle_ps::<0b01_00_01_00>(high01, high23),
            _mm512_shuffle_ps::<0b11_10_11_10>(high01, high23),
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
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, value: Self::Floats, to: &mut [f32]) {
        let to: &mut [f32; LANES] = to.first_chunk_mut().expect("LANES values");
        // SAFETY: as for `load`.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), value) }
    }

    const STREAMS_LINES: bool = true;

    #[inline(always)]
    fn stream(self, from: &[u8], to: &mut [u8]) {
        debug_assert!(to.as_ptr().addr().is_multiple_of(LINE));
        let lines = to.as_chunks_mut::<LINE>().0;
        for (from, to) in from.as_chunks::<LINE>().0.iter().zip(lines) {
            // SAFETY: `self` exists, so the machine has the instructions; both are 64 bytes, and `to` is aligned to them.
            unsafe {
                let line = _mm512_loadu_si512(from.as_ptr().cast());
                _mm512_stream_si512(to.as_mut_ptr().cast(), line);
            }
        }
    }

    #[inline(always)]
    fn add_squares(self, intended: &[f32; SQUARES], actual: &[f32; SQUARES], totals: &mut Squares) {
        // SAFETY: `self` exists, so the machine has AVX-512 F (and AVX); every access is to eight values.
        unsafe {
            let u = _mm512_cvtps_pd(_mm256_loadu_ps(intended.as_ptr()));
            let d = _mm512_cvtps_pd(_mm256_loadu_ps(actual.as_ptr()));
            for (total, (a, b)) in totals.iter_mut().zip([(u, u), (d, d), (u, d)]) {
                let sum = _mm512_fmadd_pd(a, b, _mm512_loadu_pd(total.as_ptr()));
                _mm512_storeu_pd(total.as_mut_ptr(), sum);
            }
        }
    }
}
