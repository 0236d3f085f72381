//! What a policy decides: which open units a worker gets next. A new policy is one new file and one line here.

use std::fmt::Debug;
use std::str::FromStr;

use super::dynamic::Dynamic;
use super::static_runs::StaticRuns;
use super::{ScheduleError, UnitId, WorkerId};

/// The policies there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyKind {
    /// Each worker has one run of consecutive units, as long as its speed says.
    Static,
    /// Units are handed out as workers become ready, the longest first; late ones are duplicated near the end.
    #[default]
    Dynamic,
}

impl PolicyKind {
    /// Every policy, in the order of the documentation.
    pub const ALL: [Self; 2] = [Self::Static, Self::Dynamic];

    /// The policy's name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Dynamic => "dynamic",
        }
    }

    /// The policy's plan of these units, by expected cost, over these workers and their speeds.
    pub(super) fn plan(self, costs: &[f64], workers: &[(WorkerId, f64)]) -> Box<dyn Policy> {
        match self {
            Self::Static => Box::new(StaticRuns::new(costs, workers)),
            Self::Dynamic => Box::new(Dynamic::new(costs)),
        }
    }
}

impl FromStr for PolicyKind {
    type Err = ScheduleError;

    fn from_str(name: &str) -> Result<Self, ScheduleError> {
        let found = Self::ALL.into_iter().find(|policy| policy.name() == name);
        found.ok_or_else(|| ScheduleError::UnknownPolicy {
            name: name.to_owned(),
        })
    }
}

/// Holds every unit that no worker holds. [`super::Schedule`] checks the ids, knows who holds which unit and skips
/// units that are done already.
pub(super) trait Policy: Debug + Send {
    /// Takes the next unit for this worker out of the plan.
    fn next(&mut self, worker: WorkerId) -> Option<UnitId>;

    /// A worker is gone; these are the units that it alone held, and they are open again.
    fn lost(&mut self, worker: WorkerId, held: Vec<UnitId>);

    /// A worker came; it is unknown or was lost before.
    fn joined(&mut self, worker: WorkerId);

    /// Whether a worker gets all its units at once, or by and by.
    fn all_at_once(&self) -> bool;

    /// Whether late units are given to a second worker.
    fn duplicates(&self) -> bool;
}
