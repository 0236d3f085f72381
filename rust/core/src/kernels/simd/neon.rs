//! NEON, part of the aarch64 baseline: four lanes in natural order.

use std::arch::aarch64::{
    float32x4_t, float32x4x4_t, uint32x4_t, uint64x2_t, vaddq_u32, vandq_u32, vcvtq_f32_s32,
    vdupq_n_f32, vdupq_n_u32, veorq_u32, vfmaq_f32, vget_low_u32, vld1q_f32, vld1q_u32,
    vmull_high_u32, vmull_u32, vmulq_f32, vorrq_u32, vreinterpretq_f32_u32, vreinterpretq_s32_u32,
    vreinterpretq_u32_f32, vreinterpretq_u32_s32, vreinterpretq_u32_u64, vshrq_n_s32, vsqrtq_f32,
    vst1q_f32, vst4q_f32, vsubq_f32, vsubq_u32, vuzp1q_u32, vuzp2q_u32,
};

use super::Simd;

const LANES: usize = 4;

/// Every aarch64 machine has it.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// Calls an intrinsic of NEON that works on registers only.
macro_rules! neon {
    ($call:expr) => {
        // SAFETY: NEON is part of aarch64's baseline; no memory is touched.
        #[allow(unused_unsafe, reason = "safe on newer compilers")]
        unsafe {
            $call
        }
    };
}

impl Simd for Neon {
    const LANES: usize = LANES;
    type Wide = uint32x4_t;
    type Word = uint32x4_t;
    /// Blocks 0 and 1, blocks 2 and 3.
    type Product = [uint64x2_t; 2];
    type Ints = uint32x4_t;
    type Floats = float32x4_t;

    #[inline(always)]
    fn blocks(self, first: u32) -> Self::Wide {
        // SAFETY: NEON is part of the baseline; the array has four values.
        let steps = unsafe { vld1q_u32([0, 1, 2, 3].as_ptr()) };
        neon!(vaddq_u32(vdupq_n_u32(first), steps))
    }

    #[inline(always)]
    fn word(self, value: u32) -> Self::Word {
        neon!(vdupq_n_u32(value))
    }

    #[inline(always)]
    fn product<const B: u32>(self, a: Self::Wide) -> Self::Product {
        let b = self.word(B);
        neon!([
            vmull_u32(vget_low_u32(a), vget_low_u32(b)),
            vmull_high_u32(a, b)
        ])
    }

    #[inline(always)]
    fn high(self, [first, second]: Self::Product) -> Self::Wide {
        neon!(vuzp2q_u32(
            vreinterpretq_u32_u64(first),
            vreinterpretq_u32_u64(second)
        ))
    }

    #[inline(always)]
    fn low(self, [first, second]: Self::Product) -> Self::Wide {
        neon!(vuzp1q_u32(
            vreinterpretq_u32_u64(first),
            vreinterpretq_u32_u64(second)
        ))
    }

    #[inline(always)]
    fn xor(self, a: Self::Wide, b: Self::Wide) -> Self::Wide {
        neon!(veorq_u32(a, b))
    }

    #[inline(always)]
    fn xor_word(self, a: Self::Wide, b: Self::Word) -> Self::Wide {
        neon!(veorq_u32(a, b))
    }

    #[inline(always)]
    fn narrow(self, word: Self::Wide) -> Self::Ints {
        word
    }

    #[inline(always)]
    fn int(self, value: u32) -> Self::Ints {
        neon!(vdupq_n_u32(value))
    }

    #[inline(always)]
    fn and(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        neon!(vandq_u32(a, b))
    }

    #[inline(always)]
    fn or(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        neon!(vorrq_u32(a, b))
    }

    #[inline(always)]
    fn add_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        neon!(vaddq_u32(a, b))
    }

    #[inline(always)]
    fn sub_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        neon!(vsubq_u32(a, b))
    }

    #[inline(always)]
    fn exponent(self, a: Self::Ints) -> Self::Ints {
        neon!(vreinterpretq_u32_s32(vshrq_n_s32::<23>(
            vreinterpretq_s32_u32(a)
        )))
    }

    #[inline(always)]
    fn to_floats(self, a: Self::Ints) -> Self::Floats {
        neon!(vcvtq_f32_s32(vreinterpretq_s32_u32(a)))
    }

    #[inline(always)]
    fn from_bits(self, a: Self::Ints) -> Self::Floats {
        neon!(vreinterpretq_f32_u32(a))
    }

    #[inline(always)]
    fn to_bits(self, a: Self::Floats) -> Self::Ints {
        neon!(vreinterpretq_u32_f32(a))
    }

    #[inline(always)]
    fn float(self, value: f32) -> Self::Floats {
        neon!(vdupq_n_f32(value))
    }

    #[inline(always)]
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        neon!(vsubq_f32(a, b))
    }

    #[inline(always)]
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        neon!(vmulq_f32(a, b))
    }

    #[inline(always)]
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        neon!(vfmaq_f32(c, a, b))
    }

    #[inline(always)]
    fn sqrt(self, a: Self::Floats) -> Self::Floats {
        neon!(vsqrtq_f32(a))
    }

    #[inline(always)]
    fn xor_masked(self, a: Self::Ints, b: Self::Ints, mask: Self::Ints) -> Self::Ints {
        neon!(veorq_u32(a, vandq_u32(b, mask)))
    }

    /// The store itself interleaves.
    #[inline(always)]
    fn interleave(self, [n0, n1, n2, n3]: [Self::Floats; 4], out: &mut [f32]) {
        let out: &mut [f32; 4 * LANES] = out.try_into().expect("4 * LANES values");
        // SAFETY: NEON is part of the baseline; `out` has sixteen values.
        unsafe { vst4q_f32(out.as_mut_ptr(), float32x4x4_t(n0, n1, n2, n3)) }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::Floats {
        let from: &[f32; LANES] = from.first_chunk().expect("LANES values");
        // SAFETY: NEON is part of the baseline; `from` has four values.
        unsafe { vld1q_f32(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, value: Self::Floats, to: &mut [f32]) {
        let to: &mut [f32; LANES] = to.first_chunk_mut().expect("LANES values");
        // SAFETY: NEON is part of the baseline; `to` has four values.
        unsafe { vst1q_f32(to.as_mut_ptr(), value) }
    }
}
