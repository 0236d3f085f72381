//! Plain Rust, eight lanes, for machines whose instruction set has no file here. The fma may be slow.

use super::Simd;

const LANES: usize = 8;

/// Every machine can run it.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn each<A: Copy, B: Copy, R>(a: [A; LANES], b: [B; LANES], f: impl Fn(A, B) -> R) -> [R; LANES] {
    std::array::from_fn(|lane| f(a[lane], b[lane]))
}

impl Simd for Portable {
    const LANES: usize = LANES;
    type Wide = [u32; LANES];
    type Word = u32;
    type Product = [u64; LANES];
    type Ints = [u32; LANES];
    type Floats = [f32; LANES];

    #[inline(always)]
    fn blocks(self, first: u32) -> Self::Wide {
        std::array::from_fn(|lane| first + lane as u32)
    }

    #[inline(always)]
    fn word(self, value: u32) -> Self::Word {
        value
    }

    #[inline(always)]
    fn product<const B: u32>(self, a: Self::Wide) -> Self::Product {
        a.map(|a| u64::from(a) * u64::from(B))
    }

    #[inline(always)]
    fn high(self, product: Self::Product) -> Self::Wide {
        product.map(|product| (product >> 32) as u32)
    }

    #[inline(always)]
    fn low(self, product: Self::Product) -> Self::Wide {
        product.map(|product| product as u32)
    }

    #[inline(always)]
    fn xor(self, a: Self::Wide, b: Self::Wide) -> Self::Wide {
        each(a, b, |a, b| a ^ b)
    }

    #[inline(always)]
    fn xor_word(self, a: Self::Wide, b: Self::Word) -> Self::Wide {
        a.map(|a| a ^ b)
    }

    #[inline(always)]
    fn narrow(self, word: Self::Wide) -> Self::Ints {
        word
    }

    #[inline(always)]
    fn int(self, value: u32) -> Self::Ints {
        [value; LANES]
    }

    #[inline(always)]
    fn and(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        each(a, b, |a, b| a & b)
    }

    #[inline(always)]
    fn or(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        each(a, b, |a, b| a | b)
    }

    #[inline(always)]
    fn add_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        each(a, b, u32::wrapping_add)
    }

    #[inline(always)]
    fn sub_ints(self, a: Self::Ints, b: Self::Ints) -> Self::Ints {
        each(a, b, u32::wrapping_sub)
    }

    #[inline(always)]
    fn exponent(self, a: Self::Ints) -> Self::Ints {
        a.map(|a| (a.cast_signed() >> 23).cast_unsigned())
    }

    #[inline(always)]
    fn to_floats(self, a: Self::Ints) -> Self::Floats {
        a.map(|a| a.cast_signed() as f32)
    }

    #[inline(always)]
    fn from_bits(self, a: Self::Ints) -> Self::Floats {
        a.map(f32::from_bits)
    }

    #[inline(always)]
    fn to_bits(self, a: Self::Floats) -> Self::Ints {
        a.map(f32::to_bits)
    }

    #[inline(always)]
    fn float(self, value: f32) -> Self::Floats {
        [value; LANES]
    }

    #[inline(always)]
    fn sub(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        each(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats {
        each(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats {
        std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }

    #[inline(always)]
    fn sqrt(self, a: Self::Floats) -> Self::Floats {
        a.map(f32::sqrt)
    }

    #[inline(always)]
    fn xor_masked(self, a: Self::Ints, b: Self::Ints, mask: Self::Ints) -> Self::Ints {
        std::array::from_fn(|lane| a[lane] ^ (b[lane] & mask[lane]))
    }

    #[inline(always)]
    fn interleave(self, columns: [Self::Floats; 4], out: &mut [f32]) {
        let out: &mut [f32; 4 * LANES] = out.try_into().expect("4 * LANES values");
        for lane in 0..LANES {
            for (column, values) in columns.iter().enumerate() {
                out[4 * lane + column] = values[lane];
            }
        }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::Floats {
        *from.first_chunk().expect("LANES values")
    }

    #[inline(always)]
    fn store(self, value: Self::Floats, to: &mut [f32]) {
        *to.first_chunk_mut().expect("LANES values") = value;
    }
}
