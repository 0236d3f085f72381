//! Four random words -> four standard normals, by Box & Muller (1958), from exact or correctly rounded steps only.
//!
//! Words (w0, w1) give (n0, n1), and words (w2, w3) give (n2, n3):
//!
//! ```text
//! n0 = r sin(pi x / 2)      n1 = +-r cos(pi x / 2)      r = sqrt(-2 ln u)
//! u = ((w0 & 0x7fffffff) | 1) / 2^31 in (0, 1]          x = int32(w1) / 2^31 in [-1, 1]
//! ```
//!
//! The sign of n1 is the top bit of w0: x covers half a turn, and the sign the other half. Every step is an IEEE f32
//! `+`, `*`, fma or sqrt, an int32 -> f32 conversion rounded to nearest even, or an integer operation, in the order
//! written here. So all machines give the same bits. The polynomials come from `scripts/fit_normal_transform.py`.

/// Constants of the transform as f32 bit patterns, constant term first; decimal values in `docs/noise.md`.
pub mod bits {
    /// -2 ln(1 + t) / t on [-0.25, 0.5].
    pub const LOG: [u32; 8] = [
        0xc000_0000,
        0x3f80_005b,
        0xbf2a_a645,
        0x3eff_a58f,
        0xbecd_cb40,
        0x3eb2_deb1,
        0xbe92_9570,
        0x3e09_56ac,
    ];
    /// sin(pi x / 2) / x as a polynomial in x^2 on [0, 1].
    pub const SIN: [u32; 5] = [
        0x3fc9_0fdb,
        0xbf25_5de2,
        0x3da3_3456,
        0xbb99_2663,
        0x391e_d7df,
    ];
    /// cos(pi x / 2) as a polynomial in x^2 on [0, 1].
    pub const COS: [u32; 5] = [
        0x3f80_0000,
        0xbf9d_e9d8,
        0x3e81_ded4,
        0xbcaa_820f,
        0x3a61_5cc1,
    ];
    /// -2 ln 2.
    pub const OCTAVE: u32 = 0xbfb1_7218;
    /// 0.75 * 2^31: the octaves of the logarithm begin here.
    pub const SPLIT: u32 = 0x4ec0_0000;
    /// 0.75.
    pub const THREE_QUARTERS: u32 = 0x3f40_0000;
}

/// Four standard normals from four random words.
pub fn normals(words: [u32; 4]) -> [f32; 4] {
    let [w0, w1, w2, w3] = words;
    let ((n0, n1), (n2, n3)) = (box_muller(w0, w1), box_muller(w2, w3));
    [n0, n1, n2, n3]
}

/// Two standard normals from two random words.
///
/// Absolute error below 2e-7 r. Both are finite: see [`minus_two_ln`].
fn box_muller(w0: u32, w1: u32) -> (f32, f32) {
    let r = minus_two_ln(w0).sqrt();
    let x = w1.cast_signed() as f32 * (1.0 / 2_147_483_648.0);
    let z = x * x;
    let cosine = r * polynomial(bits::COS, z);
    (
        (r * x) * polynomial(bits::SIN, z),
        f32::from_bits(cosine.to_bits() ^ (w0 & 0x8000_0000)),
    )
}

/// s = -2 ln u, u = ((w & 0x7fffffff) | 1) / 2^31.
///
/// u = 2^k z with z in [0.75, 1.5) and k in [-31, 0], both by integer operations on the bits of u * 2^31; t = z - 1 is
/// exact (Sterbenz). s = t P(t) + k (-2 ln 2) is never negative: at k = 0, t <= 0 and P < 0; below, the second term is
/// at least 1.38 and the first at least -0.82.
#[allow(clippy::many_single_char_names, reason = "the names of the formula")]
fn minus_two_ln(w: u32) -> f32 {
    let m = ((w & 0x7fff_ffff) | 1).cast_signed() as f32;
    let a = m.to_bits().wrapping_sub(bits::SPLIT);
    let k = (a.cast_signed() >> 23) as f32;
    let t = f32::from_bits((a & 0x007f_ffff) + bits::THREE_QUARTERS) - 1.0;
    t.mul_add(polynomial(bits::LOG, t), k * f32::from_bits(bits::OCTAVE))
}

/// Horner's rule, one fma per degree.
fn polynomial<const N: usize>(coefficients: [u32; N], t: f32) -> f32 {
    let mut sum = f32::from_bits(coefficients[N - 1]);
    for c in coefficients[..N - 1].iter().rev() {
        sum = sum.mul_add(t, f32::from_bits(*c));
    }
    sum
}
