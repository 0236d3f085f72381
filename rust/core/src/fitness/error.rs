//! The errors of fitness tables.

use std::ops::Range;

use super::FailurePolicy;

/// Why a table can't be filled or read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum FitnessError {
    #[error("unit {unit} is outside the table of {units} units")]
    Outside { unit: usize, units: usize },
    #[error("unit {unit} is filled already; each unit counts exactly once")]
    Twice { unit: usize },
    #[error(
        "unit {unit} (members {members:?}, prompts {prompts:?}): {values:?} can't be its sums under `failure_policy` \
         \"{policy}\""
    )]
    Sums {
        unit: usize,
        members: Range<u32>,
        prompts: Range<u32>,
        values: Vec<f64>,
        policy: &'static str,
    },
    #[error("{missing} of {units} units are missing, the first is unit {unit}")]
    Incomplete {
        missing: usize,
        units: usize,
        unit: usize,
    },
    #[error(
        "{failures} of {rewards} rewards failed, the first is of member {member}, among the prompts {prompts:?}; \
         `failure_policy` is \"raise\""
    )]
    Failed {
        failures: u64,
        rewards: u64,
        member: u32,
        prompts: Range<u32>,
    },
    #[error(
        "`failure_policy` must be one of {}, got {name:?}",
        FailurePolicy::names()
    )]
    UnknownPolicy { name: String },
}
