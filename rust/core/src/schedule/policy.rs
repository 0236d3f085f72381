//! The policies: each decides which open units a rank gets next.

use std::fmt::Debug;
use std::str::FromStr;

use super::dynamic::Dynamic;
use super::static_runs::StaticRuns;
use super::{RankId, ScheduleError, UnitId};

/// The available policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PolicyKind {
    /// Each rank gets one run of consecutive units, with a length in proportion to its speed.
    Static,
    /// Ranks get units as they become ready, the longest first. Late units are duplicated near the end.
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

    /// Plans units with these expected costs over these ranks and their speeds.
    pub(super) fn plan(self, costs: &[f64], ranks: &[(RankId, f64)]) -> Box<dyn Policy> {
        match self {
            Self::Static => Box::new(StaticRuns::new(costs, ranks)),
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

/// Holds every unit that no rank holds. [`super::Schedule`] checks the ids, knows which rank holds which unit, and skips
/// units that are done.
pub(super) trait Policy: Debug + Send {
    /// Takes the next unit for this rank out of the plan.
    fn next(&mut self, rank: RankId) -> Option<UnitId>;

    /// A rank was lost. The units that it alone held are open again.
    fn lost(&mut self, rank: RankId, held: Vec<UnitId>);

    /// A rank joined. It is unknown, or was lost before.
    fn joined(&mut self, rank: RankId);

    /// Whether a rank gets all its units at once. Otherwise, late units are given to a second rank.
    fn all_at_once(&self) -> bool;
}
