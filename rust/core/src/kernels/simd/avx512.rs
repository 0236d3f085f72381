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

use super::{Integers, SQUARES, Simd, Squares};
use crate::kernels::low_rank::MOST_ROWS;
use crate::kernels::stream::LINE;

/// One word of every block, as in `avx2`.
type Wide = [__m512i; 2];

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

/// An empty instruction that reads and writes these registers.
#[inline]
#[target_feature(enable = "avx512f")]
fn pin(word: &mut Wide, a: &mut __m512, b: &mut __m512) {
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

impl Integers for Avx512 {
    const LANES: usize = LANES;
    type Wide = Wide;
    type Word = __m512i;
    type Product = Wide;
    type Ints = __m512i;

    operations! {
        /// In the order that [`Avx512::narrow`] and [`Avx512::interleave`] need.
        blocks(first: u32) -> Wide = {
            let first = _mm512_set1_epi32(first.cast_signed());
            [
                _mm512_add_epi32(first, _mm512_setr_epi32(0, 0, 4, 0, 1, 0, 5, 0, 2, 0, 6, 0, 3, 0, 7, 0)),
                _mm512_add_epi32(first, _mm512_setr_epi32(8, 0, 12, 0, 9, 0, 13, 0, 10, 0, 14, 0, 11, 0, 15, 0)),
            ]
        };
        word(value: u32) -> __m512i = _mm512_set1_epi32(value.cast_signed());
        high(a: Wide) -> Wide = [_mm512_srli_epi64::<32>(a[0]), _mm512_srli_epi64::<32>(a[1])];
        low(a: Wide) -> Wide = a;
        xor(a: Wide, b: Wide) -> Wide = [_mm512_xor_si512(a[0], b[0]), _mm512_xor_si512(a[1], b[1])];
        xor_word(a: Wide, b: __m512i) -> Wide = [_mm512_xor_si512(a[0], b), _mm512_xor_si512(a[1], b)];
        xor3(a: Wide, b: Wide, c: __m512i) -> Wide = [
            _mm512_ternarylogic_epi32::<XOR3>(a[0], b[0], c),
            _mm512_ternarylogic_epi32::<XOR3>(a[1], b[1], c),
        ];
        /// Even 32-bit lanes of both registers: quarter h holds the blocks h, 4 + h, 8 + h, 12 + h.
        narrow(a: Wide) -> __m512i = _mm512_castps_si512(_mm512_shuffle_ps::<0b10_00_10_00>(
            _mm512_castsi512_ps(a[0]),
            _mm512_castsi512_ps(a[1]),
        ));
        int(value: u32) -> __m512i = _mm512_set1_epi32(value.cast_signed());
        and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        add_ints(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        sub_ints(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32(a, b);
        exponent(a: __m512i) -> __m512i = _mm512_srai_epi32::<23>(a);
        xor_masked(a: __m512i, b: __m512i, mask: __m512i) -> __m512i = _mm512_ternarylogic_epi32::<XOR_AND>(a, b, mask);
    }

    #[inline(always)]
    fn product<const B: u32>(self, a: Wide) -> Wide {
        // SAFETY: as in `operations`.
        unsafe {
            let b = _mm512_set1_epi64(i64::from(B));
            [_mm512_mul_epu32(a[0], b), _mm512_mul_epu32(a[1], b)]
        }
    }
}

impl Simd for Avx512 {
    type Floats = __m512;
    const ROWS: usize = MOST_ROWS;

    operations! {
        to_floats(a: __m512i) -> __m512 = _mm512_cvtepi32_ps(a);
        from_bits(a: __m512i) -> __m512 = _mm512_castsi512_ps(a);
        to_bits(a: __m512) -> __m512i = _mm512_castps_si512(a);
        pin(word: &mut Wide, a: &mut __m512, b: &mut __m512) -> () = pin(word, a, b);
        float(value: f32) -> __m512 = _mm512_set1_ps(value);
        sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        sqrt(a: __m512) -> __m512 = _mm512_sqrt_ps(a);
    }

    /// A 4 x 4 transposition in each quarter: row j holds the blocks of lanes j, j + 4, j + 8, j + 12, which are 4 j to
    /// 4 j + 3.
    #[inline(always)]
    fn interleave(self, [n0, n1, n2, n3]: [__m512; 4], out: &mut [f32]) {
        // SAFETY: as in `operations`.
        let rows = unsafe {
            let (low01, high01) = (_mm512_unpacklo_ps(n0, n1), _mm512_unpackhi_ps(n0, n1));
            let (low23, high23) = (_mm512_unpacklo_ps(n2, n3), _mm512_unpackhi_ps(n2, n3));
            [
                _mm512_shuffle_ps::<0b01_00_01_00>(low01, low23),
                _mm512_shuffle_ps::<0b11_10_11_10>(low01, low23),
                _mm512_shuffle_ps::<0b01_00_01_00>(high01, high23),
                _mm512_shuffle_ps::<0b11_10_11_10>(high01, high23),
            ]
        };
        let out: &mut [f32; 4 * LANES] = out.try_into().expect("4 * LANES values");
        for (row, out) in rows.into_iter().zip(out.as_chunks_mut::<LANES>().0) {
            self.store(row, out);
        }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m512 {
        let from: &[f32; LANES] = from.first_chunk().expect("LANES values");
        // SAFETY: `self` exists, so the machine has the instruction; `from` is long enough, no alignment is needed.
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, value: __m512, to: &mut [f32]) {
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
