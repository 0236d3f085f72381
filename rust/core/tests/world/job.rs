//! The work of a simulated job: results, records and weights, all computed from seeds.

use es_core::team::{Outcome, Round};

/// The number of iterations of each of two calls. Each call is a separate run.
pub const ITERATIONS: [u32; 2] = [5, 2];

/// A small random generator. A world draws everything from one.
pub struct Draw(pub u64);

impl Draw {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.word() % end
    }

    pub fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number that is mostly near `low`, and sometimes up to `high`.
    pub fn skewed(&mut self, low: f64, high: f64) -> f64 {
        low * (high / low).powf(self.unit().powi(3))
    }
}

pub fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// The figures of a unit; some units have none.
pub fn figures(weights: u64, unit: u32) -> Vec<u8> {
    let size = unit.saturating_sub(1) as usize % 3;
    mix(weights + u64::from(unit)).to_le_bytes()[..size].to_vec()
}

/// The result of a unit with these weights. Some units have more values than others.
pub fn outcome(weights: u64, round: Round, unit: u32) -> Outcome {
    let address = u64::from(unit) << 32 ^ u64::from(round.kind) << 24 ^ u64::from(round.step);
    let seed = mix(weights ^ address);
    let width = 1 + usize::from(unit % 5 == 3);
    Outcome {
        values: (0..width as u64)
            .map(|index| (mix(seed + index) >> 12) as f64)
            .collect(),
        counts: vec![1, u64::from(unit) + 1],
        figures: figures(weights, unit),
    }
}

/// The record of a table. Records of the same table may differ in their mark, which has no influence on the weights.
pub fn record(values: &[Vec<f64>], mark: u64) -> Vec<u8> {
    let numbers = values.iter().flatten().map(|value| value.to_bits());
    [mark]
        .into_iter()
        .chain(numbers)
        .flat_map(u64::to_le_bytes)
        .collect()
}

pub fn apply(weights: u64, record: &[u8]) -> u64 {
    record[8..].chunks(8).fold(weights, |state, chunk| {
        mix(state ^ u64::from_le_bytes(chunk.try_into().expect("8 bytes")))
    })
}

/// The base weights of a run.
pub fn base(run: usize) -> u64 {
    1 + run as u64
}

/// The weights after each iteration of an undisturbed run.
pub fn expected(run: usize, units: u32) -> Vec<u64> {
    let mut all = vec![base(run)];
    for step in 0..ITERATIONS[run] {
        let weights = *all.last().unwrap();
        let round = Round { kind: 0, step };
        let values: Vec<_> = (0..units)
            .map(|unit| outcome(weights, round, unit).values)
            .collect();
        all.push(apply(weights, &record(&values, 0)));
    }
    all
}
