//! The definition of the kernels, one element at a time. The fast paths are tested against it, bit for bit.

use super::rounding::LiveType;
use super::{At, KernelError, LowRank, Position, Terms};
use crate::noise::{Kind, NoiseAddress, noise_at};

/// out\[i\] = noise of value i of the position.
///
/// # Errors
/// [`KernelError::Address`].
pub fn fill(kind: Kind, position: impl Into<Position>, out: &mut [f32]) -> Result<(), KernelError> {
    let position = position.into();
    for (i, out) in out.iter_mut().enumerate() {
        *out = noise_at(kind, address_of(position, i))?;
    }
    Ok(())
}

/// Dense noise: live\[i\] = round(fma(scale, noise of value i, master\[i\])).
///
/// Low-rank noise, for a block of a matrix: live = round(master + acc), acc the chain
/// `acc = fma(L[row, k], B[column, k], acc)` from 0 over k, and L\[row, k\] = c * A\[row, k\] with
/// c = scale * (1 / sqrt(rank)), each step rounded to f32.
///
/// # Errors
/// [`KernelError::Address`].
pub fn perturb<L: LiveType>(
    live: &mut [L::Bits],
    master: &[f32],
    scale: f32,
    at: impl Into<At>,
) -> Result<(), KernelError> {
    let at = at.into();
    for (i, (live, master)) in live.iter_mut().zip(master).enumerate() {
        *live = L::round(match at {
            At::Dense(position) => {
                scale.mul_add(noise_at(Kind::Dense, address_of(position, i))?, *master)
            }
            At::LowRank(matrix) => {
                master + low_rank_sum(matrix, i, &[matrix.address.pair], &[scale])?
            }
        });
    }
    Ok(())
}

/// For each element: `master += acc` unless acc is zero, so a weight of -0 that nothing moves stays -0.
///
/// Dense noise: `acc = 0; for each pair in order: acc = fma(coefficient, noise, acc)`. Low-rank noise: the chain of
/// [`perturb`] over the pairs in order and over k, with c = coefficient * (1 / sqrt(rank)).
///
/// # Errors
/// [`KernelError::Address`].
pub fn accumulate(
    master: &mut [f32],
    at: impl Into<At>,
    terms: Terms<'_>,
) -> Result<(), KernelError> {
    let at = at.into();
    for (i, master) in master.iter_mut().enumerate() {
        let sum = match at {
            At::Dense(position) => dense_sum(address_of(position, i), terms)?,
            At::LowRank(matrix) => low_rank_sum(matrix, i, terms.pairs, terms.coefficients)?,
        };
        if sum != 0.0 {
            *master += sum;
        }
    }
    Ok(())
}

fn dense_sum(address: NoiseAddress, terms: Terms<'_>) -> Result<f32, KernelError> {
    let mut sum = 0.0_f32;
    for (&pair, coefficient) in terms.pairs.iter().zip(terms.coefficients) {
        let address = NoiseAddress { pair, ..address };
        sum = coefficient.mul_add(noise_at(Kind::Dense, address)?, sum);
    }
    Ok(sum)
}

fn low_rank_sum(
    matrix: LowRank,
    index: usize,
    pairs: &[u32],
    coefficients: &[f32],
) -> Result<f32, KernelError> {
    let LowRank {
        address,
        rank,
        first,
        shape,
    } = matrix;
    let row = first[0] + (index / shape[1]) as u64;
    let column = first[1] + (index % shape[1]) as u64;
    let mut sum = 0.0_f32;
    for (pair, coefficient) in pairs.iter().zip(coefficients) {
        let scale = coefficient * (1.0 / (rank as f32).sqrt());
        let factor = |kind: Kind, row: u64, k: usize| {
            let element = row * rank as u64 + k as u64;
            let element = NoiseAddress {
                pair: *pair,
                element,
                ..address
            };
            noise_at(kind, element)
        };
        for k in 0..rank {
            let left = scale * factor(Kind::LowRankA, row, k)?;
            sum = left.mul_add(factor(Kind::LowRankB, column, k)?, sum);
        }
    }
    Ok(sum)
}

/// Sum modulo 2^64 over the elements of `h(tensor, element) * (2 * bits + 1)`.
///
/// h is odd, and two values of one element differ in the second factor by an even number below 2^33 that isn't 0, so a
/// single changed element always changes the digest. The order of the elements doesn't count, so the digests of shards
/// add up.
pub fn digest(master: &[f32], position: impl Into<Position>) -> u64 {
    let position = position.into();
    let term = |(i, value): (usize, &f32)| {
        let address = address_of(position, i);
        let factor = digest_factor(digest_position(address.tensor, address.element));
        factor.wrapping_mul(2 * u64::from(value.to_bits()) + 1)
    };
    master
        .iter()
        .enumerate()
        .map(term)
        .fold(0, u64::wrapping_add)
}

/// Tensor and element in one number: 20 bits above 42.
#[inline(always)]
pub(super) fn digest_position(tensor: u32, element: u64) -> u64 {
    (u64::from(tensor) << 42) | element
}

/// h: the output function of `SplitMix64` (Steele, Lea & Flood, OOPSLA 2014) of one position, made odd.
#[inline(always)]
pub(super) fn digest_factor(position: u64) -> u64 {
    let x = position.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)) | 1
}

fn address_of(position: Position, index: usize) -> NoiseAddress {
    let (row, column) = (
        index as u64 / position.columns,
        index as u64 % position.columns,
    );
    NoiseAddress {
        element: position.address.element + row * position.stride + column,
        ..position.address
    }
}
