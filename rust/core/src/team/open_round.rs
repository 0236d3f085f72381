//! The open round of a leader: its schedule and its partial table of results.

use std::collections::BTreeMap;

use crate::schedule::{Action, Event, PolicyKind, RankId, Schedule, ScheduleError, UnitId};

use super::history::mix;
use super::message::{Outcome, Report, Round};
use super::work::add;

/// The results of a round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// The values of each unit.
    pub values: Vec<Vec<f64>>,
    /// The sums of the counts over all units, each unit counted once.
    pub counts: Vec<u64>,
    /// The figures of the units that have some.
    pub figures: BTreeMap<UnitId, Vec<u8>>,
}

#[derive(Debug)]
pub(super) struct OpenRound {
    pub round: Round,
    pub costs: Vec<f64>,
    pub schedule: Schedule,
    table: Table,
    /// The counts of units that were reported alone. A later report of a batch may contain such a unit again.
    single: BTreeMap<UnitId, Vec<u64>>,
}

impl OpenRound {
    pub fn new(
        round: Round,
        costs: Vec<f64>,
        ranks: &[(RankId, f64)],
        policy: PolicyKind,
    ) -> Result<Self, ScheduleError> {
        let schedule = Schedule::new(&costs, ranks, policy)?;
        let table = Table {
            values: vec![Vec::new(); costs.len()],
            ..Table::default()
        };
        Ok(Self {
            round,
            costs,
            schedule,
            table,
            single: BTreeMap::new(),
        })
    }

    pub fn take_table(&mut self) -> Table {
        std::mem::take(&mut self.table)
    }

    /// Handles an event without results. A round without ranks is no error, since the leader itself may take part again.
    pub fn event(&mut self, now: f64, event: Event) -> Vec<Action> {
        self.schedule.handle_event(now, event).unwrap_or_default()
    }

    /// Handles a report of a rank that takes part.
    pub fn report(&mut self, now: f64, from: RankId, report: &Report) -> Vec<Action> {
        let units: Vec<UnitId> = report.results.iter().map(|result| result.0).collect();
        let figures = report.figures.iter().map(|figures| &figures.0);
        if !units.iter().chain(figures).all(|&unit| self.knows(unit)) {
            return Vec::new();
        }
        let (old, new): (Vec<_>, Vec<_>) = units
            .into_iter()
            .partition(|&unit| self.schedule.is_done(unit));
        if !new.is_empty() {
            self.add_counts(&report.counts, &old, &new);
            let figures = report.figures.iter();
            let new: Vec<_> = figures
                .filter(|(unit, _)| !self.schedule.is_done(*unit))
                .cloned()
                .collect();
            self.table.figures.extend(new);
        }
        let mut actions = Vec::new();
        for (unit, values) in &report.results {
            actions.extend(self.count(now, from, *unit, values));
        }
        let served = |action: &Action| matches!(action, Action::Assign(to, _) | Action::Duplicate(to, _) if *to == from);
        if report.ready && !actions.iter().any(served) {
            actions.extend(self.event(now, Event::RankReady(from)));
        }
        actions
    }

    /// Handles the results that a rank had before this leader knew it.
    pub fn results(
        &mut self,
        now: f64,
        from: RankId,
        results: &[(UnitId, Outcome)],
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        for (unit, outcome) in results {
            if !self.knows(*unit) {
                continue;
            }
            if !self.schedule.is_done(*unit) {
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

    fn knows(&self, unit: UnitId) -> bool {
        (unit as usize) < self.costs.len()
    }

    /// Adds the counts of a report, less the counts of its `old` units, which are in the table already.
    fn add_counts(&mut self, reported: &[u64], old: &[UnitId], new: &[UnitId]) {
        let mut counts = reported.to_vec();
        if let ([unit], []) = (new, old) {
            self.single.insert(*unit, counts.clone());
        }
        for known in old.iter().filter_map(|unit| self.single.get(unit)) {
            for (count, known) in counts.iter_mut().zip(known) {
                *count = count.wrapping_sub(*known);
            }
        }
        add(&mut self.table.counts, &counts);
    }

    fn count(&mut self, now: f64, from: RankId, unit: UnitId, values: &[f64]) -> Vec<Action> {
        if !self.schedule.is_done(unit) {
            self.table.values[unit as usize] = values.to_vec();
        }
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_bits().to_le_bytes())
            .collect();
        self.event(now, Event::UnitDone(from, unit, mix(0, &bytes)))
    }
}
