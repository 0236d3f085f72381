//! The units that a rank has to evaluate, and the results that it has not reported yet. The leader has these as well.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::schedule::UnitId;

use super::message::{Assignment, Message, Outcome, Report, Round};

#[derive(Debug, Default)]
pub(super) struct WorkQueue {
    round: Option<Round>,
    /// The deal of the queued units. A later deal replaces them.
    deal: u32,
    queue: VecDeque<UnitId>,
    /// Units to be reported by themselves.
    alone: BTreeSet<UnitId>,
    /// The unit that is being evaluated.
    running: Option<(Round, UnitId)>,
    /// All results of this round: a new leader asks for them.
    outcomes: BTreeMap<UnitId, Outcome>,
    unreported: Vec<UnitId>,
    reported_at: f64,
}

impl WorkQueue {
    /// Queues units after those of the same deal; units of another deal or round replace them. Returns reports of units that
    /// are done already, one per unit, since the leader does not know with which other units each was reported before.
    pub fn assign(&mut self, assignment: &Assignment) -> Vec<Message> {
        let Assignment { round, deal, .. } = *assignment;
        if self.round != Some(round) {
            self.forget();
            self.round = Some(round);
        }
        if std::mem::replace(&mut self.deal, deal) != deal {
            self.reset();
        }
        let mut known = Vec::new();
        for &unit in &assignment.units {
            if self.outcomes.contains_key(&unit) {
                known.push(unit);
            } else if self.running != Some((round, unit)) && !self.queue.contains(&unit) {
                self.queue.push_back(unit);
                if assignment.alone {
                    self.alone.insert(unit);
                }
            }
        }
        self.unreported.retain(|unit| !known.contains(unit));
        let reports = known.iter().map(|&unit| self.report(round, &[unit]));
        reports.collect()
    }

    /// Drops a unit. Returns a report if nothing is left to do.
    pub fn cancel(&mut self, round: Round, unit: UnitId) -> Option<Message> {
        if self.round != Some(round) || !self.queue.contains(&unit) {
            return None;
        }
        self.queue.retain(|&held| held != unit);
        let idle = self.queue.is_empty() && self.running.is_none();
        idle.then(|| self.report_unreported(round))
    }

    /// The next unit, once `applied` records are those that its round needs. With the last unit comes a report that asks the
    /// leader for more.
    pub fn next(&mut self, now: f64, applied: u32) -> Option<(Round, UnitId, Option<Message>)> {
        let round = self.round.filter(|round| round.step == applied)?;
        let unit = self.queue.pop_front()?;
        self.running = Some((round, unit));
        let ask = self.queue.is_empty();
        Some((round, unit, ask.then(|| self.report_at(now, round))))
    }

    /// The unit that comes after the one that is being evaluated, if it is known.
    pub fn upcoming(&self) -> Option<(Round, UnitId)> {
        let (round, _) = self
            .running
            .filter(|(round, _)| self.round == Some(*round))?;
        Some((round, *self.queue.front()?))
    }

    /// The unit that was being evaluated is done. Results wait for at most `report_s` before they are reported.
    pub fn done(&mut self, now: f64, outcome: Outcome, report_s: f64) -> Vec<Message> {
        let Some((round, unit)) = self.running.take() else {
            return Vec::new();
        };
        if self.round != Some(round) {
            return Vec::new();
        }
        self.outcomes.insert(unit, outcome);
        let mut messages = Vec::new();
        if self.alone.remove(&unit) {
            messages.push(self.report(round, &[unit]));
        } else {
            self.unreported.push(unit);
        }
        if self.queue.is_empty() || now - self.reported_at > report_s {
            messages.push(self.report_at(now, round));
        }
        messages
    }

    /// Forgets the queued units, but no results. The unit that is being evaluated belongs to no deal from now on.
    pub fn reset(&mut self) {
        self.queue.clear();
        self.alone.clear();
        self.unreported.clear();
        self.alone.extend(self.running.map(|(_, unit)| unit));
    }

    /// The results of this round.
    pub fn results(&self) -> Option<(Round, Vec<(UnitId, Outcome)>)> {
        let all = self.outcomes.iter();
        let results = all.map(|(&unit, outcome)| (unit, outcome.clone()));
        Some((self.round?, results.collect()))
    }

    /// Forgets everything, also the unit that is being evaluated: another round begins, or the weights were wrong.
    pub fn forget(&mut self) {
        self.running = None;
        self.reset();
        self.round = None;
        self.outcomes.clear();
    }

    fn report_at(&mut self, now: f64, round: Round) -> Message {
        self.reported_at = now;
        self.report_unreported(round)
    }

    fn report_unreported(&mut self, round: Round) -> Message {
        let units = std::mem::take(&mut self.unreported);
        self.report(round, &units)
    }

    fn report(&self, round: Round, units: &[UnitId]) -> Message {
        let mut report = Report {
            round,
            deal: self.deal,
            ready: self.queue.is_empty(),
            results: Vec::with_capacity(units.len()),
            counts: Vec::new(),
            figures: Vec::new(),
        };
        for unit in units {
            if let Some(outcome) = self.outcomes.get(unit) {
                add(&mut report.counts, &outcome.counts);
                report.results.push((*unit, outcome.values.clone()));
                if !outcome.figures.is_empty() {
                    report.figures.push((*unit, outcome.figures.clone()));
                }
            }
        }
        Message::Report(report)
    }
}

/// Adds counts to sums, index by index.
pub(super) fn add(sums: &mut Vec<u64>, counts: &[u64]) {
    if sums.len() < counts.len() {
        sums.resize(counts.len(), 0);
    }
    for (sum, count) in sums.iter_mut().zip(counts) {
        *sum = sum.wrapping_add(*count);
    }
}
