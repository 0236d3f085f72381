//! The units in work, by when they should be finished: which of them an idle worker should take as well.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::UnitId;

/// A duplicate is worth it if it should be finished in this part of the time that the unit still needs.
const WORTH: f64 = 0.9;

/// Units that exactly one worker holds.
#[derive(Debug, Default)]
pub(super) struct LateUnits(BTreeSet<(Time, UnitId)>);

impl LateUnits {
    pub fn insert(&mut self, eta: f64, unit: UnitId) {
        self.0.insert((Time(eta), unit));
    }

    pub fn remove(&mut self, eta: f64, unit: UnitId) {
        self.0.remove(&(Time(eta), unit));
    }

    /// The unit that a worker which needs `seconds(unit)` for it had better evaluate as well.
    ///
    /// The latest one, if the worker should be finished clearly before its holder; else the one that should have been
    /// finished the longest ago, if the worker needs less time than it took already (`given`: since when).
    pub fn pick(
        &self,
        now: f64,
        seconds: impl Fn(UnitId) -> f64,
        given: impl Fn(UnitId) -> f64,
    ) -> Option<UnitId> {
        let &(latest, unit) = self.0.last()?;
        if seconds(unit) < WORTH * (latest.0 - now) {
            return Some(unit);
        }
        let &(earliest, unit) = self.0.first()?;
        let overdue = earliest.0 < now && seconds(unit) < WORTH * (now - given(unit));
        overdue.then_some(unit)
    }
}

/// A moment, ordered.
#[derive(Clone, Copy, Debug)]
struct Time(f64);

impl Ord for Time {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Time {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Time {}
