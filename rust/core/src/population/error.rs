//! The errors of populations.

use super::MAX_POPULATION;
use crate::shaping::ShapingError;

/// Why a population can't be created, or refuses fitness or a record.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum PopulationError {
    #[error("`population_size` must be from 2 to {MAX_POPULATION}, got {0}")]
    Size(usize),
    #[error("`population_size` must be even with antithetic pairs, got {0}")]
    Odd(usize),
    #[error("`{name}` must be finite, > 0 and in the range of float32, got {value:?}")]
    Scale { name: &'static str, value: f64 },
    #[error("fitness must have one value per member: expected {expected}, got {got}")]
    Length { expected: usize, got: usize },
    #[error(
        "{count} of {members} members failed, the first is member {first}; `failure_policy` is \"raise\""
    )]
    Failed {
        count: usize,
        members: usize,
        first: usize,
    },
    #[error(
        "the step of pair {pair} overflows float32: learning_rate {learning_rate:?}, coefficient {coefficient:?}"
    )]
    Overflow {
        pair: usize,
        learning_rate: f64,
        coefficient: f64,
    },
    #[error(transparent)]
    Shaping(#[from] ShapingError),
    #[error("{0}")]
    Packed(&'static str),
    #[error("expected a record of iteration {expected}, got one of iteration {got}")]
    Order { expected: u32, got: u32 },
    #[error("the record of iteration {iteration} has {got} {what}, this population has {expected}")]
    Shape {
        iteration: u32,
        what: &'static str,
        expected: usize,
        got: usize,
    },
    #[error(
        "the record of iteration {iteration} is of a run with seed {got}, this one has seed {expected}"
    )]
    Seed {
        iteration: u32,
        expected: u64,
        got: u64,
    },
    #[error("iteration {0} is the last one")]
    Exhausted(u32),
}
