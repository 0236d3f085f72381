//! Packed records, as ranks send them: without the coefficients, which every rank computes from the fitness.
//!
//! ```text
//! SHAPED    kind u8 = 0 | iteration u32 | sigma f64 | learning rate f64 | cursor u64
//!           | CRC-32 of the coefficients u32 | fitness f64 x N, NaN where a member failed
//! WHOLE     kind u8 = 1 | the same | coefficients f64 x P
//! ```
//! So a record of N members travels as 8 N + 33 bytes. The coefficients travel too where another rank might compute others:
//! with a custom shaping rule, or if this version would compute other coefficients than the record holds. The journal always
//! holds the coefficients.

use super::{Population, PopulationError, Record};

const SHAPED: u8 = 0;
const WHOLE: u8 = 1;

/// Bytes before the fitness.
const FIXED: usize = 33;

impl Population {
    /// The bytes of a record of this run.
    pub fn pack(&self, record: &Record) -> Vec<u8> {
        let is_shaped = self.shaping.is_portable()
            && self
                .coefficients(&record.fitness)
                .is_ok_and(|own| bits(&own).eq(bits(&record.coefficients)));
        let mut bytes = vec![if is_shaped { SHAPED } else { WHOLE }];
        bytes.extend(record.iteration.to_le_bytes());
        bytes.extend(record.sigma.to_le_bytes());
        bytes.extend(record.learning_rate.to_le_bytes());
        bytes.extend(record.cursor.to_le_bytes());
        bytes.extend(checksum(&record.coefficients).to_le_bytes());
        let fitness = record.fitness.iter();
        bytes.extend(fitness.flat_map(|value| value.unwrap_or(f64::NAN).to_le_bytes()));
        if !is_shaped {
            let coefficients = record.coefficients.iter();
            bytes.extend(coefficients.flat_map(|value| value.to_le_bytes()));
        }
        bytes
    }

    /// The record of packed bytes.
    ///
    /// # Errors
    /// If the bytes are no record of this population, or the coefficients differ from those of the sender.
    pub fn unpack(&self, bytes: &[u8]) -> Result<Record, PopulationError> {
        let pairs = match bytes.first() {
            Some(&SHAPED) => 0,
            Some(&WHOLE) => self.pairs(),
            _ => {
                return Err(PopulationError::Packed(
                    "expected a packed record, got other bytes",
                ));
            }
        };
        if bytes.len() != FIXED + 8 * (self.size + pairs) {
            let reason = "expected a packed record of this population, got bytes of another length";
            return Err(PopulationError::Packed(reason));
        }
        let (fixed, values) = bytes.split_at(FIXED);
        let values = values.as_chunks().0.iter().copied();
        let values: Vec<f64> = values.map(f64::from_le_bytes).collect();
        let (fitness, coefficients) = values.split_at(self.size);
        let fitness: Vec<_> = fitness
            .iter()
            .map(|&value| Some(value).filter(|value| value.is_finite()))
            .collect();
        let record = Record {
            run_seed: self.run_seed,
            iteration: u32::from_le_bytes(array(fixed, 1)),
            sigma: f64::from_le_bytes(array(fixed, 5)),
            learning_rate: f64::from_le_bytes(array(fixed, 13)),
            cursor: u64::from_le_bytes(array(fixed, 21)),
            coefficients: match pairs {
                0 => self.coefficients(&fitness)?,
                _ => coefficients.to_vec(),
            },
            fitness,
            rate_folded: false,
        };
        if checksum(&record.coefficients) != u32::from_le_bytes(array(fixed, 29)) {
            let reason =
                "a packed record gives other coefficients here than on the rank that sent it";
            return Err(PopulationError::Packed(reason));
        }
        let numbers = [record.sigma, record.learning_rate];
        if !numbers
            .iter()
            .chain(&record.coefficients)
            .all(|value| value.is_finite())
        {
            return Err(PopulationError::Packed(
                "a packed record holds numbers that aren't finite",
            ));
        }
        Ok(record)
    }
}

fn bits(values: &[f64]) -> impl Iterator<Item = u64> {
    values.iter().map(|value| value.to_bits())
}

/// The N bytes at an offset of the fixed part.
fn array<const N: usize>(fixed: &[u8], offset: usize) -> [u8; N] {
    let mut taken = [0; N];
    taken.copy_from_slice(&fixed[offset..offset + N]);
    taken
}

fn checksum(coefficients: &[f64]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for value in coefficients {
        hasher.update(&value.to_le_bytes());
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::fitness::FailurePolicy;
    use crate::shaping::{RULES, Shaping};

    fn population(antithetic: bool, shaping: Shaping, policy: FailurePolicy) -> Population {
        Population::new(5, 12, antithetic, shaping, policy).unwrap()
    }

    fn record(population: &Population, whole: bool) -> Record {
        let fitness: Vec<Option<f64>> = (0..12_u32)
            .map(|member| (whole || member % 5 != 2).then(|| f64::from(member * 7 % 11) / 3.0))
            .collect();
        let record = population.tell(&fitness, 1e-3, 5e-4, 7).unwrap();
        Record {
            iteration: 9,
            ..record
        }
    }

    #[test]
    fn records_of_every_population_are_sent_as_their_fitness() {
        for (name, rule) in RULES {
            for policy in FailurePolicy::ALL {
                for antithetic in [false, true] {
                    let population = population(antithetic, Shaping::Named(name, *rule), policy);
                    let record = record(&population, policy == FailurePolicy::Raise);
                    let bytes = population.pack(&record);
                    assert_eq!(bytes.len(), 33 + 8 * 12);
                    assert_eq!(population.unpack(&bytes).unwrap(), record);
                }
            }
        }
    }

    #[test]
    fn coefficients_that_other_ranks_may_compute_differently_are_sent() {
        let negated = Shaping::Custom(
            "negated".into(),
            Arc::new(|fitness| Ok(fitness.iter().map(|value| -value).collect())),
        );
        let custom = population(true, negated, FailurePolicy::Worst);
        let foreign = record(&custom, false);
        let named = population(
            true,
            Shaping::named("zscore").unwrap(),
            FailurePolicy::Worst,
        );
        let mut edited = record(&named, false);
        edited.coefficients[3] = edited.coefficients[3].next_up();
        for (population, record) in [(custom, foreign), (named, edited)] {
            let bytes = population.pack(&record);
            assert_eq!(bytes.len(), 33 + 8 * (12 + 6));
            assert_eq!(population.unpack(&bytes).unwrap(), record);
        }
    }

    #[test]
    fn other_coefficients_are_refused() {
        let population = population(
            false,
            Shaping::named("zscore").unwrap(),
            FailurePolicy::Worst,
        );
        let bytes = population.pack(&record(&population, false));
        for position in 29..FIXED {
            let mut other = bytes.clone();
            other[position] ^= 1;
            let error = population.unpack(&other).unwrap_err().to_string();
            assert!(error.contains("other coefficients"), "{position}: {error}");
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        let population = population(
            false,
            Shaping::named("zscore").unwrap(),
            FailurePolicy::Zero,
        );
        let bytes = population.pack(&record(&population, false));
        for length in 0..bytes.len() {
            assert!(population.unpack(&bytes[..length]).is_err(), "{length}");
        }
        assert!(population.unpack(&[&bytes[..], &[0]].concat()).is_err());
        for position in 0..bytes.len() {
            for value in 0..=255 {
                let mut other = bytes.clone();
                other[position] = value;
                if let Ok(record) = population.unpack(&other) {
                    assert!(record.sigma.is_finite() && record.learning_rate.is_finite());
                    assert!(record.coefficients.iter().all(|value| value.is_finite()));
                }
            }
        }
    }
}
