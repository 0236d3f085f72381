//! The operations that the noise needs, one file per instruction set.
//!
//! The algorithm is written once, over [`Simd`]. Every operation is exact or rounded to nearest even, so all instruction
//! sets give the same bits.
#![allow(
    clippy::wrong_self_convention,
    reason = "`self` proves that the machine has the instruction"
)]

/// The methods of an instruction set that are one expression of intrinsics each.
macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident($($value:ident: $kind:ty),+) -> $result:ty = $body:expr;)+) => {$(
        $(#[$doc])*
        #[inline(always)]
        #[allow(unused_unsafe, reason = "plain Rust, and NEON on newer compilers, is safe")]
        fn $name(self, $($value: $kind),+) -> $result {
            // SAFETY: `self` exists, so the machine has the instruction set; no memory is touched but the arguments.
            unsafe { $body }
        }
    )+};
}

use super::low_rank::FEW_ROWS;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
pub(super) use neon::Neon;
pub(super) use portable::Portable;

/// Lanes of [`Squares`]. The same on every instruction set, so that the sums are the same.
pub(super) const SQUARES: usize = 8;

/// Sums of intended^2, of actual^2 and of intended * actual.
pub(super) type Squares = [[f64; SQUARES]; 3];

/// The integer operations of one instruction set: Philox, and the bits of floats. A value of the type proves that this
/// machine has the instruction set.
///
/// Every operation works on [`Integers::LANES`] Philox blocks at once, one block per lane. An instruction set chooses the
/// order of the blocks; [`Integers::blocks`] and [`Simd::interleave`] must agree on it.
pub(super) trait Integers: Copy + Send + Sync {
    /// Blocks per group, and 32-bit lanes of `Ints` and of `Floats`.
    const LANES: usize;
    /// One Philox word of every block, in the form that multiplies best.
    type Wide: Copy;
    /// One Philox word for all blocks, a constant.
    type Word: Copy;
    /// The 64-bit products of one word.
    type Product: Copy;
    /// 32-bit integers.
    type Ints: Copy;

    /// `first`, `first` + 1, ..., `first` + LANES - 1, in the order of the instruction set.
    fn blocks(self, first: u32) -> Self::Wide;
    /// The same word for every block.
    fn word(self, value: u32) -> Self::Word;
    /// a * B, 32 x 32 -> 64 bits. B is a constant, so that the compiler always finds the single instruction.
    fn product<const B: u32>(self, a: Self::Wide) -> Self::Product;
    /// Upper halves.
    fn high(self, product: Self::Product) -> Self::Wide;
    /// Lower halves.
    fn low(self, product: Self::Product) -> Self::Wide;
    /// a ^ b.
    fn xor(self, a: Self::Wide, b: Self::Wide) -> Self::Wide;
    /// a ^ b, b a constant.
    fn xor_word(self, a: Self::Wide, b: Self::Word) -> Self::Wide;
    /// a ^ b ^ c, c a constant.
    #[inline(always)]
    fn xor3(self, a: Self::Wide, b: Self::Wide, c: Self::Word) -> Self::Wide {
        self.xor(a, self.xor_word(b, c))
    }
    /// The words as 32-bit lanes.
    fn narrow(self, word: Self::Wide) -> Self::Ints;

    /// The same integer in every lane.
    fn int(self, value: u32) -> Self::Ints;
    /// a & b.
    fn and(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// a | b.
    fn or(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// a + b modulo 2^32.
    fn add_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// a - b modulo 2^32.
    fn sub_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// Arithmetic shift by 23 to the right: the exponent of a positive f32.
    fn exponent(self, a: Self::Ints) -> Self::Ints;
    /// a ^ (b & mask).
    fn xor_masked(self, a: Self::Ints, b: Self::Ints, mask: Self::Ints) -> Self::Ints;
}

/// All operations of one instruction set.
pub(super) trait Simd: Integers {
    /// f32 values.
    type Floats: Copy;

    /// Rows of a matrix product that are summed at once, in two registers each.
    const ROWS: usize = FEW_ROWS;

    /// Signed integers to f32, to nearest even.
    fn to_floats(self, a: Self::Ints) -> Self::Floats;
    /// Bits as f32.
    fn from_bits(self, a: Self::Ints) -> Self::Floats;
    /// f32 as bits.
    fn to_bits(self, a: Self::Floats) -> Self::Ints;
    /// Does nothing, but fixes an order: the compiler computes these values before, and uses them after.
    #[inline(always)]
    fn pin(self, _: &mut Self::Wide, _: &mut Self::Floats, _: &mut Self::Floats) {}

    /// The same value in every lane.
    fn float(self, value: f32) -> Self::Floats;
    /// a - b.
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a * b.
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// a * b + c, rounded once.
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
    /// Correctly rounded.
    fn sqrt(self, a: Self::Floats) -> Self::Floats;

    /// `columns[i]` holds value i of every block, in the order of the instruction set. Writes the blocks one after another.
    ///
    /// # Panics
    /// If `out` doesn't have 4 * LANES values.
    fn interleave(self, columns: [Self::Floats; 4], out: &mut [f32]);
    /// The first LANES values of `from`.
    ///
    /// # Panics
    /// If there are fewer values.
    fn load(self, from: &[f32]) -> Self::Floats;
    /// Into the first LANES values of `to`.
    ///
    /// # Panics
    /// If there are fewer values.
    fn store(self, value: Self::Floats, to: &mut [f32]);

    /// Whether `stream` writes a line by one instruction. Only then is it free in kernels that are bound by arithmetic.
    const STREAMS_LINES: bool = false;
    /// to = from, past the cache. Both have the same number of whole lines, and `to` begins at a line.
    #[inline(always)]
    fn stream(self, from: &[u8], to: &mut [u8]) {
        super::stream::copy(from, to);
    }

    /// Adds the squares of `intended` and of `actual` and their products to the totals, lane by lane, in f64. The product of
    /// two f32 is exact in f64, so an fma gives the same bits.
    #[inline(always)]
    fn add_squares(
        self,
        intended: &[f32; SQUARES],
        actual: &[f32; SQUARES],
        [intended_square, actual_square, product]: &mut Squares,
    ) {
        for lane in 0..SQUARES {
            let (u, d) = (f64::from(intended[lane]), f64::from(actual[lane]));
            intended_square[lane] += u * u;
            actual_square[lane] += d * d;
            product[lane] += u * d;
        }
    }
}
