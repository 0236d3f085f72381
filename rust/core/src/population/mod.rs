//! The population: members and pairs of every iteration, and ask / tell / apply. Holds no weights and draws no noise.
//!
//! ```text
//! ask()          -> N members            pure
//! tell(fitness)  -> record               pure: journal the record, then
//! apply(record)  -> next iteration       the only change; live run and resume share it
//! ```
//! The state is a fold of records: the same records give the same state, whoever made them.

mod error;
mod record;

pub use error::PopulationError;
pub use record::{Member, Record};

use crate::fitness::FailurePolicy;
use crate::shaping::ShapingRule;

/// Members that a population may have at most; keeps a record below 300 MB.
pub const MAX_POPULATION: usize = 1 << 24;

/// Members and seeds of a run, without weights.
#[derive(Clone, Debug)]
pub struct Population {
    run_seed: u64,
    size: usize,
    antithetic: bool,
    shaping: ShapingRule,
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
        shaping: ShapingRule,
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

    /// Key of the run's noise.
    pub fn run_seed(&self) -> u64 {
        self.run_seed
    }

    /// Members per iteration, N.
    pub fn population_size(&self) -> usize {
        self.size
    }

    /// Noise pairs per iteration: N, or N/2 with antithetic pairs.
    pub fn pairs(&self) -> usize {
        if self.antithetic {
            self.size / 2
        } else {
            self.size
        }
    }

    /// The iteration that `ask` and `tell` speak of.
    pub fn iteration(&self) -> u32 {
        self.iteration
    }

    /// The members of this iteration. Antithetic: members 2p (+) and 2p + 1 (-) share pair p.
    pub fn ask(&self) -> Vec<Member> {
        let iteration = self.iteration;
        let member = |index: u32| match (self.antithetic, index % 2) {
            (false, _) => Member {
                iteration,
                index,
                pair: index,
                sign: 1,
            },
            (true, 0) => Member {
                iteration,
                index,
                pair: index / 2,
                sign: 1,
            },
            (true, _) => Member {
                iteration,
                index,
                pair: index / 2,
                sign: -1,
            },
        };
        (0..self.size as u32).map(member).collect()
    }

    /// The record that these fitness values make; `None`, NaN and infinities are members that failed. Changes nothing.
    ///
    /// `coefficient = f32(learning_rate / N * Z_n)`, or `f32(learning_rate / N * (Z_plus - Z_minus))` for an
    /// antithetic pair: computed in f64, rounded once. N is the population size, failed members included.
    ///
    /// # Errors
    /// If the number of values isn't N, sigma or the learning rate is no positive float32, a coefficient overflows
    /// float32, or a member failed and the policy is to raise.
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
        let scores = self.member_scores(&fitness)?;
        let coefficients = self.coefficients(&scores, learning_rate)?;
        let pairs = (0..self.pairs() as u32).collect();
        Ok(Record {
            iteration: self.iteration,
            sigma,
            learning_rate,
            cursor,
            fitness,
            pairs,
            coefficients,
        })
    }

    /// Goes to the next iteration.
    ///
    /// # Errors
    /// If the record isn't one of this iteration and this population; nothing changes then.
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
        if record.pairs.len() != self.pairs() {
            return Err(shape("pairs", self.pairs(), record.pairs.len()));
        }
        if record.coefficients.len() != self.pairs() {
            return Err(shape(
                "coefficients",
                self.pairs(),
                record.coefficients.len(),
            ));
        }
        if record
            .pairs
            .iter()
            .enumerate()
            .any(|(place, &pair)| pair as usize != place)
        {
            return Err(PopulationError::Pairs { iteration });
        }
        self.iteration = iteration
            .checked_add(1)
            .ok_or(PopulationError::Exhausted(iteration))?;
        Ok(())
    }

    /// One score per member: a failed one has none of its own and gets what the policy says.
    fn member_scores(&self, fitness: &[Option<f64>]) -> Result<Vec<f64>, PopulationError> {
        let alive: Vec<f64> = fitness.iter().copied().flatten().collect();
        let failed = fitness.len() - alive.len();
        match self.failure_policy {
            FailurePolicy::Raise if failed > 0 => {
                let first = fitness
                    .iter()
                    .position(Option::is_none)
                    .expect("one failed");
                Err(PopulationError::Failed {
                    count: failed,
                    members: fitness.len(),
                    first,
                })
            }
            FailurePolicy::Worst if !alive.is_empty() => {
                let worst = alive.iter().copied().fold(f64::INFINITY, f64::min);
                let filled: Vec<f64> = fitness.iter().map(|value| value.unwrap_or(worst)).collect();
                Ok(self.shaping.scores(&filled))
            }
            _ => {
                let mut scores = self.shaping.scores(&alive).into_iter();
                let score = |value: &Option<f64>| value.and_then(|_| scores.next()).unwrap_or(0.0);
                Ok(fitness.iter().map(score).collect())
            }
        }
    }

    fn coefficients(
        &self,
        scores: &[f64],
        learning_rate: f64,
    ) -> Result<Vec<f32>, PopulationError> {
        let factor = learning_rate / self.size as f64;
        let of_pair = |(pair, scores): (usize, &[f64])| {
            let score = if let [plus, minus] = *scores {
                plus - minus
            } else {
                scores[0]
            };
            let coefficient = (factor * score) as f32;
            if coefficient.is_finite() {
                Ok(coefficient)
            } else {
                Err(PopulationError::Overflow {
                    pair,
                    learning_rate,
                    score,
                })
            }
        };
        let members_per_pair = self.size / self.pairs();
        scores
            .chunks_exact(members_per_pair)
            .enumerate()
            .map(of_pair)
            .collect()
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
