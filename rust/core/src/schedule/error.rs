//! A schedule's errors.

use super::{RankId, UnitId};

/// An event or an argument that a schedule does not accept.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the error texts describe them")]
pub enum ScheduleError {
    #[error("a schedule needs at least 1 unit")]
    NoUnits,
    #[error("unit {unit} must have an expected cost > 0 and finite, got {cost:?}")]
    Cost { unit: usize, cost: f64 },
    #[error("rank {rank} must have a speed >= 0 and finite (0: unknown), got {speed:?}")]
    Speed { rank: RankId, speed: f64 },
    #[error("no rank is left for {open} open units")]
    NoRanks { open: u32 },
    #[error("rank {rank} is there already; each rank is named or joins once")]
    Repeated { rank: RankId },
    #[error("unit {unit} is unknown; this schedule has units 0 to {}", units - 1)]
    UnknownUnit { unit: UnitId, units: u32 },
    #[error("rank {rank} is unknown; it must join first")]
    UnknownRank { rank: RankId },
    #[error("rank {rank} was lost; it must join again before it works")]
    LostRank { rank: RankId },
    #[error("`assignment` must be \"static\" or \"dynamic\", got {name:?}")]
    UnknownPolicy { name: String },
}
