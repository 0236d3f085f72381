//! Why a table refuses.

use crate::schedule::ScheduleError;

/// Why a table can't be made, filled or read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum FitnessError {
    #[error(transparent)]
    Plan(#[from] ScheduleError),
    #[error("unit {unit} is outside the table of {units} units")]
    Outside { unit: usize, units: usize },
    #[error("unit {unit} was told before; each unit counts exactly once")]
    Twice { unit: usize },
    #[error(
        "unit {unit} (member {member}, prompts {start} to {stop}): {values:?} are no score under `failure_policy` \"{policy}\""
    )]
    Score {
        unit: usize,
        member: u32,
        start: u32,
        stop: u32,
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
        "{failures} of {rewards} rewards failed, the first is of member {member}, among the prompts {start} to {stop}; \
         `failure_policy` is \"raise\""
    )]
    Failed {
        failures: u64,
        rewards: u64,
        member: u32,
        start: u32,
        stop: u32,
    },
    #[error(
        "`failure_policy` must be one of \"zero\", \"worst\", \"drop_prompt\", \"raise\", got \"{name}\""
    )]
    UnknownPolicy { name: String },
}
