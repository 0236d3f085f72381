//! The population: members and pairs of every iteration; ask, tell and apply. Holds no weights and draws no noise.
//!
//! ```text
//! ask(sigma)     -> N members            pure
//! tell(fitness)  -> record               pure: journal the record, then
//! apply(record)  -> next iteration       the only change; live run, resume and replay use it
//! ```
//! The state is a function of the records alone.

mod error;
mod packed;
mod record;

pub use error::PopulationError;
pub use record::{Member, Record};

use crate::fitness::FailurePolicy;
use crate::shaping::Shaping;

/// The largest population; it keeps a record below 300 MB.
pub const MAX_POPULATION: usize = 1 << 24;

/// Members and seeds of a run, without weights.
#[derive(Clone, Debug)]
pub struct Population {
    run_seed: u64,
    size: usize,
    antithetic: bool,
    shaping: Shaping,
    failure_policy: FailurePolicy,
    iteration: u32,
}

impl Population {
    /// A population before its first iteration.
    ///
    /// # Errors
    /// If the size is out of range, or odd with antithetic pairs.
    pub fn new(
        run_seed: u64,
        population_size: usize,
        antithetic: bool,
        shaping: Shaping,
        failure_policy: FailurePolicy,
    ) -> Result<Self, PopulationError> {
        if !(2..=MAX_POPULATION).contains(&population_size) {
            return Err(PopulationError::Size(population_size));
        }
        if antithetic && population_size % 2 == 1 {
            return Err(PopulationError::Odd(population_size));
        }
        Ok(Self {
            run_seed,
            size: population_size,
            antithetic,
            shaping,
            failure_policy,
            iteration: 0,
        })
    }

    /// Noise pairs per iteration: N, or N/2 with antithetic pairs.
    fn pairs(&self) -> usize {
        if self.antithetic {
            self.size / 2
        } else {
            self.size
        }
    }

    /// The iteration of `ask` and `tell`.
    pub fn iteration(&self) -> u32 {
        self.iteration
    }

    /// The members of this iteration with this noise scale. With antithetic pairs, members 2p (+) and 2p + 1 (-) share
    /// pair p.
    ///
    /// # Errors
    /// If sigma is no positive float32.
    pub fn ask(&self, sigma: f64) -> Result<Vec<Member>, PopulationError> {
        check_scale("sigma", sigma)?;
        let member = |index: u32| {
            let (pair, sign) = match (self.antithetic, index % 2) {
                (false, _) => (index, 1),
                (true, 0) => (index / 2, 1),
                (true, _) => (index / 2, -1),
            };
            Member {
                run_seed: self.run_seed,
                iteration: self.iteration,
                index,
                pair,
                sign,
                sigma,
            }
        };
        Ok((0..self.size as u32).map(member).collect())
    }

    /// The record of these fitness values; `None`, NaN and infinities are members that failed. Changes nothing.
    ///
    /// The coefficients are the shaped fitness `Z_n`, or `Z_plus - Z_minus` of an antithetic pair, in f64.
    ///
    /// # Errors
    /// If the number of values isn't N, sigma or the learning rate is no positive float32, the step of plain SGD
    /// overflows float32, the shaping rule fails, or a member failed and the policy is to raise.
    pub fn tell(
        &self,
        fitness: &[Option<f64>],
        sigma: f64,
        learning_rate: f64,
        cursor: u64,
    ) -> Result<Record, PopulationError> {
        check_scale("sigma", sigma)?;
        check_scale("learning_rate", learning_rate)?;
        if fitness.len() != self.size {
            return Err(PopulationError::Length {
                expected: self.size,
                got: fitness.len(),
            });
        }
        let fitness: Vec<Option<f64>> = fitness
            .iter()
            .map(|value| value.filter(|value| value.is_finite()))
            .collect();
        let record = Record {
            run_seed: self.run_seed,
            iteration: self.iteration,
            sigma,
            learning_rate,
            cursor,
            coefficients: self.coefficients(&fitness)?,
            fitness,
            rate_folded: false,
        };
        let steps = record.sgd_coefficients();
        if let Some(pair) = steps.iter().position(|step| !step.is_finite()) {
            return Err(PopulationError::Overflow {
                pair,
                learning_rate,
                coefficient: record.coefficients[pair],
            });
        }
        Ok(record)
    }

    /// Moves to the next iteration.
    ///
    /// # Errors
    /// If the record isn't of this iteration and this population; nothing changes then.
    pub fn apply(&mut self, record: &Record) -> Result<(), PopulationError> {
        let iteration = record.iteration;
        if iteration != self.iteration {
            return Err(PopulationError::Order {
                expected: self.iteration,
                got: iteration,
            });
        }
        let shape = |what, expected, got| PopulationError::Shape {
            iteration,
            what,
            expected,
            got,
        };
        if record.fitness.len() != self.size {
            return Err(shape("members", self.size, record.fitness.len()));
        }
        if record.run_seed != self.run_seed {
            return Err(PopulationError::Seed {
                iteration,
                expected: self.run_seed,
                got: record.run_seed,
            });
        }
        if record.coefficients.len() != self.pairs() {
            return Err(shape(
                "coefficients",
                self.pairs(),
                record.coefficients.len(),
            ));
        }
        self.iteration = iteration
            .checked_add(1)
            .ok_or(PopulationError::Exhausted(iteration))?;
        Ok(())
    }

    /// One coefficient per pair.
    fn coefficients(&self, fitness: &[Option<f64>]) -> Result<Vec<f64>, PopulationError> {
        let shaped = self.shaped(fitness)?;
        let members_per_pair = self.size / self.pairs();
        let of_pair = |pair: &[f64]| pair.get(1).map_or(pair[0], |minus| pair[0] - minus);
        Ok(shaped.chunks_exact(members_per_pair).map(of_pair).collect())
    }

    /// Z of each member. A failed member has no fitness; the policy decides its Z.
    fn shaped(&self, fitness: &[Option<f64>]) -> Result<Vec<f64>, PopulationError> {
        let alive: Vec<f64> = fitness.iter().copied().flatten().collect();
        let first_failed = fitness.iter().position(Option::is_none);
        match (self.failure_policy, first_failed) {
            (FailurePolicy::Raise, Some(first)) => Err(PopulationError::Failed {
                count: fitness.len() - alive.len(),
                members: fitness.len(),
                first,
            }),
            (FailurePolicy::Worst, _) if !alive.is_empty() => {
                let worst = alive.iter().copied().fold(f64::INFINITY, f64::min);
                let filled: Vec<f64> = fitness.iter().map(|value| value.unwrap_or(worst)).collect();
                Ok(self.shaping.shape(&filled)?)
            }
            _ => {
                let mut shaped = self.shaping.shape(&alive)?.into_iter();
                let z = |value: &Option<f64>| value.and_then(|_| shaped.next()).unwrap_or(0.0);
                Ok(fitness.iter().map(z).collect())
            }
        }
    }
}

fn check_scale(name: &'static str, value: f64) -> Result<(), PopulationError> {
    let rounded = value as f32;
    if rounded.is_finite() && rounded > 0.0 {
        Ok(())
    } else {
        Err(PopulationError::Scale { name, value })
    }
}
