//! f32 -> live types, to nearest even, without branches, so that the compiler vectorizes the loops. NaN becomes the default
//! NaN of the type.

use bytemuck::Pod;

use super::KernelError;

/// Types of live weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// f32.
    F32,
    /// bfloat16.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl Dtype {
    /// Every type, in the order of the documentation.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// The type's name in torch and in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
        }
    }

    /// The type with this name.
    ///
    /// # Errors
    /// [`KernelError::Dtype`] for an unknown name.
    pub fn from_name(name: &str) -> Result<Self, KernelError> {
        let found = Self::ALL.into_iter().find(|dtype| dtype.name() == name);
        found.ok_or_else(|| KernelError::Dtype(name.to_owned()))
    }
}

/// A type of live weights, at compile time.
pub trait LiveType: Send + Sync {
    /// How the weights are stored.
    type Bits: Pod + Send + Sync;

    /// The value of a stored form.
    fn widen(bits: Self::Bits) -> f32;

    /// The stored form of the nearest value, ties to even.
    fn round(value: f32) -> Self::Bits;

    /// The nearest value itself, as f32.
    fn nearest(value: f32) -> f32;

    /// As [`LiveType::round`], for values whose nearest value is finite.
    fn round_finite(value: f32) -> Self::Bits;

    /// The smallest magnitude, as f32 bits, whose nearest value is infinite or NaN.
    const OVERFLOW: u32;
}

/// f32: nothing to round.
#[derive(Clone, Copy, Debug)]
pub struct F32;

/// bfloat16: the upper half of an f32.
#[derive(Clone, Copy, Debug)]
pub struct Bf16;

/// IEEE half precision: 5 bits of exponent, 10 of fraction.
#[derive(Clone, Copy, Debug)]
pub struct F16;

const MAGNITUDE: u32 = 0x7fff_ffff;
/// The bits of infinity: an exponent of ones.
pub(super) const INFINITY: u32 = 0x7f80_0000;

/// The bits without the sign.
#[inline(always)]
pub(super) fn magnitude(value: f32) -> u32 {
    value.to_bits() & MAGNITUDE
}

impl LiveType for F32 {
    type Bits = f32;

    #[inline(always)]
    fn widen(bits: f32) -> f32 {
        bits
    }

    #[inline(always)]
    fn round(value: f32) -> f32 {
        value
    }

    #[inline(always)]
    fn nearest(value: f32) -> f32 {
        value
    }

    const OVERFLOW: u32 = INFINITY;

    #[inline(always)]
    fn round_finite(value: f32) -> f32 {
        value
    }
}

impl LiveType for Bf16 {
    type Bits = u16;

    #[inline(always)]
    fn widen(bits: u16) -> f32 {
        f32::from_bits(u32::from(bits) << 16)
    }

    /// Adds just below half a unit, or half a unit where the last kept bit is odd, and drops the lower 16 bits. A carry
    /// goes into the exponent, up to infinity.
    #[inline(always)]
    fn round(value: f32) -> u16 {
        if magnitude(value) > INFINITY {
            0x7fc0
        } else {
            Self::round_finite(value)
        }
    }

    #[inline(always)]
    fn nearest(value: f32) -> f32 {
        f32::from_bits(u32::from(Self::round(value)) << 16)
    }

    const OVERFLOW: u32 = 0x7f7f_8000;

    #[inline(always)]
    fn round_finite(value: f32) -> u16 {
        let bits = value.to_bits();
        (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16
    }
}

/// Smallest normal half, 2^-14, as f32 bits.
const SMALLEST_NORMAL: u32 = 0x3880_0000;
/// 0.5. Added to an f32, it moves the last bit of a subnormal half, 2^-24, into the last bit of the f32.
const HALF: u32 = 0x3f00_0000;
/// 127 - 15, shifted to the exponent.
const REBIAS: u32 = 112 << 23;

impl LiveType for F16 {
    type Bits = u16;

    /// Exact: a power of two moves the exponent, of subnormals too.
    #[inline(always)]
    fn widen(bits: u16) -> f32 {
        let shifted = u32::from(bits & 0x7fff) << 13;
        let finite = (f32::from_bits(shifted) * f32::from_bits(REBIAS + (127 << 23))).to_bits();
        let magnitude = if bits & 0x7c00 == 0x7c00 {
            shifted | INFINITY
        } else {
            finite
        };
        f32::from_bits(magnitude | u32::from(bits & 0x8000) << 16)
    }

    #[inline(always)]
    fn round(value: f32) -> u16 {
        let sign = (value.to_bits() >> 16) as u16 & 0x8000;
        if magnitude(value) > INFINITY {
            0x7e00
        } else if magnitude(value) >= Self::OVERFLOW {
            sign | 0x7c00
        } else {
            Self::round_finite(value)
        }
    }

    #[inline(always)]
    fn round_finite(value: f32) -> u16 {
        let bits = value.to_bits();
        let magnitude = bits & MAGNITUDE;
        let carry = 0xfff + ((magnitude >> 13) & 1);
        let normal = magnitude.wrapping_sub(REBIAS).wrapping_add(carry) >> 13;
        let subnormal = (f32::from_bits(magnitude) + f32::from_bits(HALF))
            .to_bits()
            .wrapping_sub(HALF);
        let finite = if magnitude < SMALLEST_NORMAL {
            subnormal
        } else {
            normal
        };
        (finite | ((bits >> 16) & 0x8000)) as u16
    }

    #[inline(always)]
    fn nearest(value: f32) -> f32 {
        let bits = value.to_bits();
        let magnitude = bits & MAGNITUDE;
        let carry = 0xfff + ((magnitude >> 13) & 1);
        let normal = magnitude.wrapping_add(carry) & !0x1fff;
        let half = f32::from_bits(HALF);
        let subnormal = ((f32::from_bits(magnitude) + half) - half).to_bits();
        let finite = if magnitude < SMALLEST_NORMAL {
            subnormal
        } else {
            normal
        };
        let signed = (if magnitude >= Self::OVERFLOW {
            INFINITY
        } else {
            finite
        }) | (bits & !MAGNITUDE);
        if magnitude > INFINITY {
            f32::NAN
        } else {
            f32::from_bits(signed)
        }
    }

    /// 65520.
    const OVERFLOW: u32 = 0x477f_f000;
}
