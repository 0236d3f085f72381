//! NEON, part of the aarch64 baseline: four lanes in natural order.

use std::arch::aarch64::{
    float32x4_t, float32x4x4_t, uint32x4_t, uint64x2_t, vaddq_u32, vandq_u32, vcvtq_f32_s32,
    vdupq_n_f32, vdupq_n_u32, veorq_u32, vfmaq_f32, vget_low_u32, vld1q_f32, vld1q_u32,
    vmull_high_u32, vmull_u32, vmulq_f32, vorrq_u32, vreinterpretq_f32_u32, vreinterpretq_s32_u32,
    vreinterpretq_u32_f32, vreinterpretq_u32_s32, vreinterpretq_u32_u64, vshrq_n_s32, vsqrtq_f32,
    vst1q_f32, vst4q_f32, vsubq_f32, vsubq_u32, vuzp1q_u32, vuzp2q_u32,
};

use super::{Integers, Simd};

const LANES: usize = 4;

/// Every aarch64 machine has it.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

impl Integers for Neon {
    const LANES: usize = LANES;
    type Wide = uint32x4_t;
    type Word = uint32x4_t;
    /// Blocks 0 and 1, blocks 2 and 3.
    type Product = [uint64x2_t; 2];
    type Ints = uint32x4_t;

    operations! {
        blocks(first: u32) -> uint32x4_t = vaddq_u32(vdupq_n_u32(first), vld1q_u32([0, 1, 2, 3].as_ptr()));
        word(value: u32) -> uint32x4_t = vdupq_n_u32(value);
        high(a: [uint64x2_t; 2]) -> uint32x4_t =
            vuzp2q_u32(vreinterpretq_u32_u64(a[0]), vreinterpretq_u32_u64(a[1]));
        low(a: [uint64x2_t; 2]) -> uint32x4_t =
            vuzp1q_u32(vreinterpretq_u32_u64(a[0]), vreinterpretq_u32_u64(a[1]));
        xor(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = veorq_u32(a, b);
        xor_word(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = veorq_u32(a, b);
        narrow(word: uint32x4_t) -> uint32x4_t = word;
        int(value: u32) -> uint32x4_t = vdupq_n_u32(value);
        and(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vandq_u32(a, b);
        or(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vorrq_u32(a, b);
        add_ints(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vaddq_u32(a, b);
        sub_ints(a: uint32x4_t, b: uint32x4_t) -> uint32x4_t = vsubq_u32(a, b);
        exponent(a: uint32x4_t) -> uint32x4_t =
            vreinterpretq_u32_s32(vshrq_n_s32::<23>(vreinterpretq_s32_u32(a)));
        xor_masked(a: uint32x4_t, b: uint32x4_t, mask: uint32x4_t) -> uint32x4_t =
            veorq_u32(a, vandq_u32(b, mask));
    }

    #[inline(always)]
    #[allow(unused_unsafe, reason = "safe on newer compilers")]
    fn product<const B: u32>(self, a: uint32x4_t) -> [uint64x2_t; 2] {
        let b = self.word(B);
        // SAFETY: as in `operations`.
        unsafe {
            [
                vmull_u32(vget_low_u32(a), vget_low_u32(b)),
                vmull_high_u32(a, b),
            ]
        }
    }
}

impl Simd for Neon {
    type Floats = float32x4_t;

    operations! {
        to_floats(a: uint32x4_t) -> float32x4_t = vcvtq_f32_s32(vreinterpretq_s32_u32(a));
        from_bits(a: uint32x4_t) -> float32x4_t = vreinterpretq_f32_u32(a);
        to_bits(a: float32x4_t) -> uint32x4_t = vreinterpretq_u32_f32(a);
        float(value: f32) -> float32x4_t = vdupq_n_f32(value);
        sub(a: float32x4_t, b: float32x4_t) -> float32x4_t = vsubq_f32(a, b);
        mul(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmulq_f32(a, b);
        fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = vfmaq_f32(c, a, b);
        sqrt(a: float32x4_t) -> float32x4_t = vsqrtq_f32(a);
    }

    /// The store itself interleaves.
    #[inline(always)]
    fn interleave(self, [n0, n1, n2, n3]: [float32x4_t; 4], out: &mut [f32]) {
        let out: &mut [f32; 4 * LANES] = out.try_into().expect("4 * LANES values");
        // SAFETY: NEON is part of the baseline; `out` has sixteen values.
        unsafe { vst4q_f32(out.as_mut_ptr(), float32x4x4_t(n0, n1, n2, n3)) }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> float32x4_t {
        let from: &[f32; LANES] = from.first_chunk().expect("LANES values");
        // SAFETY: NEON is part of the baseline; `from` has four values.
        unsafe { vld1q_f32(from.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, value: float32x4_t, to: &mut [f32]) {
        let to: &mut [f32; LANES] = to.first_chunk_mut().expect("LANES values");
        // SAFETY: NEON is part of the baseline; `to` has four values.
        unsafe { vst1q_f32(to.as_mut_ptr(), value) }
    }
}
