//! Philox and the normal transform for a group of blocks at once, in registers: the one fast form of the noise.
//!
//! Equal to [`Stream::block`], block by block. Philox mixes two halves of the counter. Within a chunk one half depends on
//! the block alone and the other one on the pair alone, and the halves meet only in the third of the ten rounds. So the
//! first two rounds are computed once per pair ([`PairWords`], for all blocks) and once per group of blocks
//! ([`BlockWords`], for all pairs).

use super::simd::Simd;
use crate::noise::{KEY_STEP, MULTIPLIERS, ROUNDS, Stream, bits};

const ROUNDS_USIZE: usize = ROUNDS as usize;
const M0: u32 = MULTIPLIERS[0];
const M1: u32 = MULTIPLIERS[1];

/// The key words of one round.
#[inline(always)]
fn round_key(stream: &Stream, round: usize) -> [u32; 2] {
    std::array::from_fn(|word| {
        stream.key[word].wrapping_add(KEY_STEP[word].wrapping_mul(round as u32))
    })
}

/// The constants of a stream and of the transform, one full register each: an operand in memory costs nothing, but a
/// broadcast costs an instruction.
pub(super) struct Constants<S: Simd> {
    keys: [[S::Word; 2]; ROUNDS_USIZE],
    iteration: S::Word,
    magnitude: S::Ints,
    sign: S::Ints,
    one_bit: S::Ints,
    split: S::Ints,
    fraction: S::Ints,
    three_quarters: S::Ints,
    one: S::Floats,
    octave: S::Floats,
    half_turn: S::Floats,
    log: [S::Floats; bits::LOG.len()],
    sin: [S::Floats; bits::SIN.len()],
    cos: [S::Floats; bits::COS.len()],
}

impl<S: Simd> Constants<S> {
    #[inline(always)]
    pub fn new(simd: S, stream: &Stream) -> Self {
        let key = |round: usize| round_key(stream, round).map(|word| simd.word(word));
        let float = |bits: u32| simd.float(f32::from_bits(bits));
        Self {
            keys: std::array::from_fn(key),
            iteration: simd.word(stream.iteration ^ round_key(stream, 0)[1]),
            magnitude: simd.int(0x7fff_ffff),
            sign: simd.int(0x8000_0000),
            one_bit: simd.int(1),
            split: simd.int(bits::SPLIT),
            fraction: simd.int(0x007f_ffff),
            three_quarters: simd.int(bits::THREE_QUARTERS),
            one: simd.float(1.0),
            octave: float(bits::OCTAVE),
            half_turn: simd.float(1.0 / 2_147_483_648.0),
            log: bits::LOG.map(float),
            sin: bits::SIN.map(float),
            cos: bits::COS.map(float),
        }
    }
}

/// The first two rounds of a pair, for all blocks with the same upper bits.
#[derive(Clone, Copy)]
pub(super) struct PairWords {
    /// c0 after round 2 is this word ^ the word of the block.
    c0: u32,
    /// The same for c2.
    c2: u32,
    /// c3 after round 2, with round 3's key in it.
    c3: u32,
}

impl PairWords {
    /// `high` holds the bits of the block from bit 32 on.
    #[inline(always)]
    pub fn new(stream: &Stream, high: u32) -> Self {
        let product = u64::from(stream.pair) * u64::from(MULTIPLIERS[1]);
        let c0 = (product >> 32) as u32 ^ stream.high ^ high ^ round_key(stream, 0)[0];
        let c1 = product as u32;
        let product = u64::from(c0) * u64::from(MULTIPLIERS[0]);
        Self {
            c0: c1 ^ round_key(stream, 1)[0],
            c2: (product >> 32) as u32 ^ round_key(stream, 1)[1],
            c3: product as u32 ^ round_key(stream, 2)[1],
        }
    }
}

/// The first two rounds of a group of blocks, for all pairs.
#[derive(Clone, Copy)]
pub(super) struct BlockWords<S: Simd> {
    c0: S::Wide,
    c1: S::Wide,
    c2: S::Wide,
}

impl<S: Simd> BlockWords<S> {
    /// The words of the blocks `first..first + LANES`, lower 32 bits; `first` is a multiple of LANES.
    #[inline(always)]
    pub fn new(simd: S, constants: &Constants<S>, first: u32) -> Self {
        let product = simd.product::<M0>(simd.blocks(first));
        let c2 = simd.xor_word(simd.high(product), constants.iteration);
        let c3 = simd.low(product);
        let product = simd.product::<M1>(c2);
        Self {
            c0: simd.high(product),
            c1: simd.xor_word(simd.low(product), constants.keys[2][0]),
            c2: c3,
        }
    }

    /// Computes the words of these blocks and, at the same time, the normals of the words before them: the multiplications
    /// of one fill the latencies of the other. Column i holds value i of each block, in the order of the instruction set.
    #[inline(always)]
    pub fn normals_and_words(
        &self,
        simd: S,
        constants: &Constants<S>,
        pair: &PairWords,
        [w0, w1, w2, w3]: [S::Ints; 4],
    ) -> ([S::Floats; 4], [S::Ints; 4]) {
        let c = constants;
        let mut state = self.first(simd, pair);
        let (mut a, mut b) = (Log::new(simd, c, w0), Log::new(simd, c, w2));
        simd.pin(&mut state[0], &mut a.t, &mut b.t);
        state = round(simd, c, 3, state);
        a.degrees(simd, c, 6, 5);
        b.degrees(simd, c, 6, 5);
        simd.pin(&mut state[0], &mut a.sum, &mut b.sum);
        state = round(simd, c, 4, state);
        a.degrees(simd, c, 4, 3);
        b.degrees(simd, c, 4, 3);
        simd.pin(&mut state[0], &mut a.sum, &mut b.sum);
        state = round(simd, c, 5, state);
        a.degrees(simd, c, 2, 1);
        b.degrees(simd, c, 2, 1);
        simd.pin(&mut state[0], &mut a.sum, &mut b.sum);
        state = round(simd, c, 6, state);
        let (mut ra, mut rb) = (a.root(simd, c), b.root(simd, c));
        simd.pin(&mut state[0], &mut ra, &mut rb);
        let (mut ta, mut tb) = (Turn::new(simd, c, w1), Turn::new(simd, c, w3));
        state = round(simd, c, 7, state);
        simd.pin(&mut state[0], &mut ta.z, &mut tb.z);
        let (mut sa, mut sb) = (ta.sine(simd, c), tb.sine(simd, c));
        state = round(simd, c, 8, state);
        simd.pin(&mut state[0], &mut sa, &mut sb);
        let (mut ca, mut cb) = (ta.cosine(simd, c), tb.cosine(simd, c));
        state = round(simd, c, 9, state);
        simd.pin(&mut state[0], &mut ca, &mut cb);
        let normals = [
            simd.mul(simd.mul(ra, ta.x), sa),
            turn_sign(simd, c, simd.mul(ra, ca), w0),
            simd.mul(simd.mul(rb, tb.x), sb),
            turn_sign(simd, c, simd.mul(rb, cb), w2),
        ];
        (normals, narrow(simd, state))
    }

    /// Rounds 3 to 10.
    #[inline(always)]
    pub fn words(&self, simd: S, constants: &Constants<S>, pair: &PairWords) -> [S::Ints; 4] {
        let mut state = self.first(simd, pair);
        for index in 3..10 {
            state = round(simd, constants, index, state);
        }
        narrow(simd, state)
    }

    #[inline(always)]
    fn first(&self, simd: S, pair: &PairWords) -> [S::Wide; 4] {
        let p0 = simd.product::<M0>(simd.xor_word(self.c0, simd.word(pair.c0)));
        let p1 = simd.product::<M1>(simd.xor_word(self.c2, simd.word(pair.c2)));
        [
            simd.xor(simd.high(p1), self.c1),
            simd.low(p1),
            simd.xor_word(simd.high(p0), simd.word(pair.c3)),
            simd.low(p0),
        ]
    }
}

#[inline(always)]
fn round<S: Simd>(
    simd: S,
    constants: &Constants<S>,
    index: usize,
    [c0, c1, c2, c3]: [S::Wide; 4],
) -> [S::Wide; 4] {
    let [k0, k1] = constants.keys[index];
    let (p0, p1) = (simd.product::<M0>(c0), simd.product::<M1>(c2));
    [
        simd.xor3(simd.high(p1), c1, k0),
        simd.low(p1),
        simd.xor3(simd.high(p0), c3, k1),
        simd.low(p0),
    ]
}

/// -2 ln u, coefficient by coefficient, as in `noise/normal.rs`.
struct Log<S: Simd> {
    t: S::Floats,
    octaves: S::Floats,
    sum: S::Floats,
}

impl<S: Simd> Log<S> {
    #[inline(always)]
    #[allow(clippy::many_single_char_names, reason = "the names of the formula")]
    fn new(simd: S, constants: &Constants<S>, w: S::Ints) -> Self {
        let m = simd.or(simd.and(w, constants.magnitude), constants.one_bit);
        let a = simd.sub_ints(simd.to_bits(simd.to_floats(m)), constants.split);
        let k = simd.to_floats(simd.exponent(a));
        let fraction = simd.and(a, constants.fraction);
        let z = simd.from_bits(simd.add_ints(fraction, constants.three_quarters));
        Self {
            t: simd.sub(z, constants.one),
            octaves: simd.mul(k, constants.octave),
            sum: constants.log[7],
        }
    }

    #[inline(always)]
    fn degrees(&mut self, simd: S, constants: &Constants<S>, first: usize, second: usize) {
        self.sum = simd.fma(self.sum, self.t, constants.log[first]);
        self.sum = simd.fma(self.sum, self.t, constants.log[second]);
    }

    #[inline(always)]
    fn root(&self, simd: S, constants: &Constants<S>) -> S::Floats {
        let sum = simd.fma(self.sum, self.t, constants.log[0]);
        simd.sqrt(simd.fma(self.t, sum, self.octaves))
    }
}

struct Turn<S: Simd> {
    x: S::Floats,
    z: S::Floats,
}

impl<S: Simd> Turn<S> {
    #[inline(always)]
    fn new(simd: S, constants: &Constants<S>, w: S::Ints) -> Self {
        let x = simd.mul(simd.to_floats(w), constants.half_turn);
        Self {
            x,
            z: simd.mul(x, x),
        }
    }

    #[inline(always)]
    fn sine(&self, simd: S, constants: &Constants<S>) -> S::Floats {
        polynomial(simd, &constants.sin, self.z)
    }

    #[inline(always)]
    fn cosine(&self, simd: S, constants: &Constants<S>) -> S::Floats {
        polynomial(simd, &constants.cos, self.z)
    }
}

#[inline(always)]
fn turn_sign<S: Simd>(simd: S, constants: &Constants<S>, a: S::Floats, w: S::Ints) -> S::Floats {
    simd.from_bits(simd.xor_masked(simd.to_bits(a), w, constants.sign))
}

/// Horner's rule, constant term first, one fma per degree.
#[inline(always)]
fn polynomial<S: Simd, const N: usize>(
    simd: S,
    coefficients: &[S::Floats; N],
    t: S::Floats,
) -> S::Floats {
    let mut sum = coefficients[N - 1];
    for coefficient in coefficients[..N - 1].iter().rev() {
        sum = simd.fma(sum, t, *coefficient);
    }
    sum
}

/// Written out: a call of `map` would not be compiled for the instruction set.
#[inline(always)]
fn narrow<S: Simd>(simd: S, [a, b, c, d]: [S::Wide; 4]) -> [S::Ints; 4] {
    [
        simd.narrow(a),
        simd.narrow(b),
        simd.narrow(c),
        simd.narrow(d),
    ]
}
