//! Why a schedule refuses.

use super::{UnitId, WorkerId};

/// An event or an argument that can't be accepted.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum ScheduleError {
    #[error("a schedule needs at least 1 unit")]
    NoUnits,
    #[error("unit {unit} must have an expected cost > 0 and finite, got {cost}")]
    Cost { unit: usize, cost: f64 },
    #[error("worker {worker} must have a speed >= 0 and finite (0: unknown), got {speed}")]
    Speed { worker: WorkerId, speed: f64 },
    #[error("no worker is left for {open} open units")]
    NoWorkers { open: u32 },
    #[error("worker {worker} is there already; each worker is named or joins once")]
    Repeated { worker: WorkerId },
    #[error("unit {unit} is unknown; this schedule has units 0 to {}", units - 1)]
    UnknownUnit { unit: UnitId, units: u32 },
    #[error("worker {worker} is unknown; it must join first")]
    UnknownWorker { worker: WorkerId },
    #[error("worker {worker} was lost; it must join again before it works")]
    LostWorker { worker: WorkerId },
    #[error("`assignment` must be \"static\" or \"dynamic\", got {name:?}")]
    UnknownPolicy { name: String },
}
