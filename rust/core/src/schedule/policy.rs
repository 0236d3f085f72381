//! What a policy decides: which unit a free worker gets next. A new policy is one new file and one line here.

use std::fmt::Debug;

use super::static_runs::StaticRuns;
use super::{UnitId, WorkerId};

/// The policies there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// Each worker has one run of consecutive units, all runs equally long but for one unit.
    Static,
}

impl PolicyKind {
    /// The policy's plan of units 0..units over these workers.
    pub(super) fn plan(self, units: u32, workers: &[WorkerId]) -> Box<dyn Policy> {
        match self {
            Self::Static => Box::new(StaticRuns::new(units, workers)),
        }
    }
}

/// Holds every unit that no worker has been given yet. [`super::Schedule`] checks the ids, knows who holds which unit
/// and skips units that are done already.
pub(super) trait Policy: Debug + Send {
    /// The next unit for this free worker, taken out of the plan.
    fn next(&mut self, now: f64, worker: WorkerId) -> Option<UnitId>;

    /// A worker is gone; `held` is the unit it was given and didn't finish.
    fn lost(&mut self, worker: WorkerId, held: Option<UnitId>);

    /// A worker came; it is unknown or was lost before.
    fn joined(&mut self, worker: WorkerId);
}
