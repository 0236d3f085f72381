//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11), one block at a time.

/// Rounds of the generator.
pub const ROUNDS: u32 = 10;

/// Multipliers of counter words 0 and 2 (Salmon et al., section 3.3, as published with Random123).
pub const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];

/// Added to the key words between rounds: the golden ratio and sqrt(3) - 1, as 32-bit fractions.
pub const KEY_STEP: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Four random words from a counter and a key.
///
/// One round, with `hi` and `lo` the halves of a 32 x 32 -> 64 bit product:
/// `(c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0))`; between rounds the key words
/// grow by [`KEY_STEP`] modulo 2^32.
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..ROUNDS {
        let (hi0, lo0) = halves(MULTIPLIERS[0], c0);
        let (hi1, lo1) = halves(MULTIPLIERS[1], c2);
        (c0, c1, c2, c3) = (hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0);
        k0 = k0.wrapping_add(KEY_STEP[0]);
        k1 = k1.wrapping_add(KEY_STEP[1]);
    }
    [c0, c1, c2, c3]
}

fn halves(a: u32, b: u32) -> (u32, u32) {
    let product = u64::from(a) * u64::from(b);
    ((product >> 32) as u32, product as u32)
}
