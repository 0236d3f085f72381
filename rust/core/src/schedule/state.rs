//! The state of a unit.

use super::RankId;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum UnitState {
    Open,
    Held(Held),
    Done { by: RankId, result: u64 },
}

/// The ranks that evaluate a unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Held {
    pub first: RankId,
    /// A rank that evaluates it too because it is late.
    pub second: Option<RankId>,
    /// When the first rank got it, and when it should be finished.
    pub given: f64,
    pub eta: f64,
}

impl Held {
    pub fn ranks(self) -> impl Iterator<Item = RankId> {
        [Some(self.first), self.second].into_iter().flatten()
    }
}
