//! What the schedule knows of one worker: the units it holds, and how fast it is.

use std::collections::VecDeque;

use super::UnitId;

/// Less than that many seconds is no time to measure a speed in.
const SHORTEST: f64 = 1e-9;

#[derive(Debug, Default)]
pub(super) struct Worker {
    pub lost: bool,
    /// Units it was given and hasn't finished, in the order in which it evaluates them.
    pub holds: VecDeque<UnitId>,
    /// Cost per second before this schedule; 0 is unknown.
    prior: f64,
    /// Cost finished in this schedule, and the seconds it took.
    cost: f64,
    busy: f64,
    /// Until when `busy` counts; meaningful while it holds something.
    mark: f64,
    /// When it should have finished all it holds.
    eta: f64,
}

impl Worker {
    pub fn with_speed(prior: f64) -> Self {
        Self {
            prior,
            ..Self::default()
        }
    }

    /// Cost per second, if it ever finished something that took time.
    pub fn speed(&self) -> Option<f64> {
        if self.busy > SHORTEST && self.cost > 0.0 {
            Some(self.cost / self.busy)
        } else {
            (self.prior > 0.0).then_some(self.prior)
        }
    }

    /// It was given a unit; the answer is when it should be finished with it.
    /// Without any speed to go by that is never.
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

    /// Since when it evaluates the first unit that it holds.
    pub fn since(&self) -> f64 {
        self.mark
    }

    /// It finished a unit. Whether it held it.
    pub fn finish(&mut self, now: f64, unit: UnitId, cost: f64) -> bool {
        let held = self.drop_unit(unit);
        if held {
            self.cost += cost;
            self.busy += (now - self.mark).max(0.0);
            self.mark = now;
        }
        held
    }

    /// It no longer has to evaluate a unit. Whether it held it.
    pub fn drop_unit(&mut self, unit: UnitId) -> bool {
        let place = self.holds.iter().position(|&held| held == unit);
        place.is_some_and(|place| self.holds.remove(place).is_some())
    }
}
