//! What a schedule knows about a unit, and about a rank: the units that it holds, and its speed.

use std::collections::VecDeque;

use super::{RankId, UnitId};

/// The shortest time in seconds in which a speed can be measured.
const SHORTEST: f64 = 1e-9;

/// The units that no rank holds: their number and their cost.
#[derive(Debug)]
pub(super) struct OpenUnits {
    pub count: usize,
    pub cost: f64,
}

impl OpenUnits {
    pub fn add(&mut self, cost: f64) {
        self.count += 1;
        self.cost += cost;
    }

    pub fn remove(&mut self, cost: f64) {
        self.count -= 1;
        self.cost -= cost;
    }
}

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

#[derive(Debug, Default)]
pub(super) struct RankState {
    pub lost: bool,
    /// The units that it has not finished, in the order in which it evaluates them.
    pub holds: VecDeque<UnitId>,
    /// Its cost per second before this schedule; 0 is unknown.
    prior: f64,
    /// The cost that it finished in this schedule, and the seconds that it took.
    cost: f64,
    busy: f64,
    /// The time up to which `busy` counts: when it began to evaluate the first unit that it holds.
    pub mark: f64,
    /// When it should have finished all units that it holds.
    eta: f64,
}

impl RankState {
    pub fn with_speed(prior: f64) -> Self {
        Self {
            prior,
            ..Self::default()
        }
    }

    /// Its cost per second, if it ever finished a unit that took time.
    pub fn speed(&self) -> Option<f64> {
        if self.busy > SHORTEST && self.cost > 0.0 {
            Some(self.cost / self.busy)
        } else {
            (self.prior > 0.0).then_some(self.prior)
        }
    }

    /// Gives it a unit. Returns when it should be finished, which is never if no speed is known.
    pub fn assign(&mut self, now: f64, unit: UnitId, cost: f64, usual_speed: Option<f64>) -> f64 {
        if self.holds.is_empty() {
            self.mark = now;
            self.eta = now;
        }
        self.holds.push_back(unit);
        let speed = self.speed().or(usual_speed);
        self.eta = self.eta.max(now) + speed.map_or(f64::INFINITY, |speed| cost / speed);
        self.eta
    }

    /// It finished a unit. Returns whether it held the unit.
    pub fn finish(&mut self, now: f64, unit: UnitId, cost: f64) -> bool {
        let held = self.drop_unit(unit);
        if held {
            self.cost += cost;
            self.busy += (now - self.mark).max(0.0);
            self.mark = now;
        }
        held
    }

    /// Takes a unit away from it. Returns whether it held the unit.
    pub fn drop_unit(&mut self, unit: UnitId) -> bool {
        let index = self.holds.iter().position(|&held| held == unit);
        index.is_some_and(|index| self.holds.remove(index).is_some())
    }
}
