//! The round that a leader has open: its schedule, and the table as it fills.

use std::collections::BTreeMap;

use crate::schedule::{Action, Event, PolicyKind, Schedule, ScheduleError, UnitId, WorkerId};

use super::history::mix;
use super::message::{Outcome, Report, Round};
use super::worker::add;

/// The results of a round: values by unit, counts summed up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// Values of each unit.
    pub values: Vec<Vec<f64>>,
    /// Sum of the counts over all units, each unit once.
    pub counts: Vec<u64>,
    /// The figures of units that have some.
    pub figures: BTreeMap<UnitId, Vec<u8>>,
}

#[derive(Debug)]
pub(super) struct OpenRound {
    pub round: Round,
    costs: Vec<f64>,
    schedule: Schedule,
    table: Table,
    /// Counts of the units that were told one by one, which a batch may tell again.
    single: BTreeMap<UnitId, Vec<u64>>,
}

impl OpenRound {
    pub fn new(
        round: Round,
        costs: Vec<f64>,
        workers: &[(WorkerId, f64)],
        policy: PolicyKind,
    ) -> Result<Self, ScheduleError> {
        let schedule = Schedule::new(&costs, workers, policy)?;
        let table = Table {
            values: vec![Vec::new(); costs.len()],
            counts: Vec::new(),
            figures: BTreeMap::new(),
        };
        Ok(Self {
            round,
            costs,
            schedule,
            table,
            single: BTreeMap::new(),
        })
    }

    pub fn costs(&self) -> &[f64] {
        &self.costs
    }

    pub fn finished(&self) -> bool {
        self.schedule.finished()
    }

    pub fn is_alive(&self, worker: WorkerId) -> bool {
        self.schedule.is_alive(worker)
    }

    pub fn speeds(&self) -> impl Iterator<Item = (WorkerId, f64)> {
        self.schedule.speeds()
    }

    pub fn in_work(&self) -> impl Iterator<Item = (WorkerId, UnitId, f64)> {
        self.schedule.in_work()
    }

    pub fn take_table(&mut self) -> Table {
        std::mem::take(&mut self.table)
    }

    /// An event without results. That nobody is left is no error here: the leader itself may come back.
    pub fn event(&mut self, now: f64, event: Event) -> Vec<Action> {
        self.schedule.handle_event(now, event).unwrap_or_default()
    }

    /// Takes a report of a living worker.
    pub fn report(&mut self, now: f64, from: WorkerId, report: &Report) -> Vec<Action> {
        let known = |unit: UnitId| (unit as usize) < self.costs.len();
        let units = report.results.iter().map(|(unit, _)| *unit);
        if !units
            .chain(report.figures.iter().map(|(unit, _)| *unit))
            .all(known)
        {
            return Vec::new();
        }
        let done = |unit| self.schedule.is_done(unit).expect("checked above");
        let (old, new): (Vec<_>, Vec<_>) = report.results.iter().partition(|(unit, _)| done(*unit));
        if let [(unit, _)] = new[..]
            && old.is_empty()
        {
            self.single.insert(*unit, report.counts.clone());
        }
        if !new.is_empty() {
            let mut counts = report.counts.clone();
            for (unit, _) in &old {
                for (count, told) in counts
                    .iter_mut()
                    .zip(self.single.get(unit).into_iter().flatten())
                {
                    *count = count.wrapping_sub(*told);
                }
            }
            add(&mut self.table.counts, &counts);
            self.table.figures.extend(
                report
                    .figures
                    .iter()
                    .filter(|(unit, _)| !done(*unit))
                    .cloned(),
            );
        }
        let mut actions = Vec::new();
        for (unit, values) in &report.results {
            actions.extend(self.count(now, from, *unit, values));
        }
        let served = |action: &Action| matches!(action, Action::Assign(to, _) | Action::Duplicate(to, _) if *to == from);
        if report.ready && !actions.iter().any(served) {
            actions.extend(self.event(now, Event::WorkerReady(from)));
        }
        actions
    }

    /// Takes what a worker had before this leader knew it.
    pub fn results(
        &mut self,
        now: f64,
        from: WorkerId,
        results: &[(UnitId, Outcome)],
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        for (unit, outcome) in results {
            let Ok(done) = self.schedule.is_done(*unit) else {
                continue;
            };
            if !done {
                self.single.insert(*unit, outcome.counts.clone());
                add(&mut self.table.counts, &outcome.counts);
                if !outcome.figures.is_empty() {
                    self.table.figures.insert(*unit, outcome.figures.clone());
                }
            }
            actions.extend(self.count(now, from, *unit, &outcome.values));
        }
        actions
    }

    fn count(&mut self, now: f64, from: WorkerId, unit: UnitId, values: &[f64]) -> Vec<Action> {
        if !self.schedule.is_done(unit).unwrap_or(true) {
            self.table.values[unit as usize] = values.to_vec();
        }
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_bits().to_le_bytes())
            .collect();
        self.event(now, Event::UnitDone(from, unit, mix(0, &bytes)))
    }
}
