//! What has become of a unit.

use super::WorkerId;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum UnitState {
    Open,
    Held(Held),
    Done { by: WorkerId, result: u64 },
}

/// Who evaluates a unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Held {
    pub first: WorkerId,
    /// A worker that evaluates it as well because it is late.
    pub second: Option<WorkerId>,
    /// When the first worker got it, and when it should be finished.
    pub given: f64,
    pub eta: f64,
}

impl Held {
    pub fn workers(self) -> impl Iterator<Item = WorkerId> {
        [Some(self.first), self.second].into_iter().flatten()
    }
}
