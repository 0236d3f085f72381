//! Units that ranks are evaluating, ordered by when they should be finished, and which of them an idle rank should take too.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::UnitId;

/// A duplicate must be expected to finish within this part of the time that the unit still needs.
const WORTH: f64 = 0.9;

/// Units that exactly one rank holds.
#[derive(Debug, Default)]
pub(super) struct LateUnits(BTreeSet<(Time, UnitId)>);

impl LateUnits {
    pub fn insert(&mut self, eta: f64, unit: UnitId) {
        self.0.insert((Time(eta), unit));
    }

    pub fn remove(&mut self, eta: f64, unit: UnitId) {
        self.0.remove(&(Time(eta), unit));
    }

    /// The unit that an idle rank should evaluate too, if it needs `seconds(unit)` for it.
    ///
    /// This is the unit that will be finished last, if the rank should finish it clearly before its holder. Otherwise it is the
    /// unit that is overdue for the longest time, if it is overdue by the time that the rank needs for it. A rank can't stop
    /// before the end of a unit: if the holder finishes soon after it began, the next iteration waits for it.
    pub fn pick(&self, now: f64, seconds: impl Fn(UnitId) -> f64) -> Option<UnitId> {
        let &(latest, unit) = self.0.last()?;
        if seconds(unit) < WORTH * (latest.0 - now) {
            return Some(unit);
        }
        let &(earliest, unit) = self.0.first()?;
        (now - earliest.0 >= seconds(unit)).then_some(unit)
    }
}

/// A time with a total order.
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
