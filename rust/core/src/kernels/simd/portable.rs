//! Plain Rust, eight lanes, for machines whose instruction set has no file here. The fma may be slow.

use super::{Integers, Simd};

const LANES: usize = 8;

/// Every machine can run it.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

#[inline(always)]
fn each<A: Copy, B: Copy, R>(a: [A; LANES], b: [B; LANES], f: impl Fn(A, B) -> R) -> [R; LANES] {
    std::array::from_fn(|lane| f(a[lane], b[lane]))
}

impl Integers for Portable {
    const LANES: usize = LANES;
    type Wide = [u32; LANES];
    type Word = u32;
    type Product = [u64; LANES];
    type Ints = [u32; LANES];

    operations! {
        blocks(first: u32) -> [u32; LANES] = std::array::from_fn(|lane| first + lane as u32);
        word(value: u32) -> u32 = value;
        high(a: [u64; LANES]) -> [u32; LANES] = a.map(|a| (a >> 32) as u32);
        low(a: [u64; LANES]) -> [u32; LANES] = a.map(|a| a as u32);
        xor(a: [u32; LANES], b: [u32; LANES]) -> [u32; LANES] = each(a, b, |a, b| a ^ b);
        xor_word(a: [u32; LANES], b: u32) -> [u32; LANES] = a.map(|a| a ^ b);
        narrow(word: [u32; LANES]) -> [u32; LANES] = word;
        int(value: u32) -> [u32; LANES] = [value; LANES];
        and(a: [u32; LANES], b: [u32; LANES]) -> [u32; LANES] = each(a, b, |a, b| a & b);
        or(a: [u32; LANES], b: [u32; LANES]) -> [u32; LANES] = each(a, b, |a, b| a | b);
        add_ints(a: [u32; LANES], b: [u32; LANES]) -> [u32; LANES] = each(a, b, u32::wrapping_add);
        sub_ints(a: [u32; LANES], b: [u32; LANES]) -> [u32; LANES] = each(a, b, u32::wrapping_sub);
        exponent(a: [u32; LANES]) -> [u32; LANES] = a.map(|a| (a.cast_signed() >> 23).cast_unsigned());
        xor_masked(a: [u32; LANES], b: [u32; LANES], mask: [u32; LANES]) -> [u32; LANES] =
            std::array::from_fn(|lane| a[lane] ^ (b[lane] & mask[lane]));
    }

    #[inline(always)]
    fn product<const B: u32>(self, a: [u32; LANES]) -> [u64; LANES] {
        a.map(|a| u64::from(a) * u64::from(B))
    }
}

impl Simd for Portable {
    type Floats = [f32; LANES];

    operations! {
        to_floats(a: [u32; LANES]) -> [f32; LANES] = a.map(|a| a.cast_signed() as f32);
        from_bits(a: [u32; LANES]) -> [f32; LANES] = a.map(f32::from_bits);
        to_bits(a: [f32; LANES]) -> [u32; LANES] = a.map(f32::to_bits);
        float(value: f32) -> [f32; LANES] = [value; LANES];
        sub(a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] = each(a, b, |a, b| a - b);
        mul(a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] = each(a, b, |a, b| a * b);
        fma(a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] =
            std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]));
        sqrt(a: [f32; LANES]) -> [f32; LANES] = a.map(f32::sqrt);
    }

    #[inline(always)]
    fn interleave(self, columns: [[f32; LANES]; 4], out: &mut [f32]) {
        let out: &mut [f32; 4 * LANES] = out.try_into().expect("4 * LANES values");
        for lane in 0..LANES {
            for (column, values) in columns.iter().enumerate() {
                out[4 * lane + column] = values[lane];
            }
        }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> [f32; LANES] {
        *from.first_chunk().expect("LANES values")
    }

    #[inline(always)]
    fn store(self, value: [f32; LANES], to: &mut [f32]) {
        *to.first_chunk_mut().expect("LANES values") = value;
    }
}
