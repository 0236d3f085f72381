//! What a rank has to evaluate, and what it hasn't told its leader yet. Every rank has one, the leader too.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::schedule::UnitId;

use super::message::{Message, Outcome, Report, Round};

#[derive(Debug, Default)]
pub(super) struct Worker {
    round: Option<Round>,
    /// What it was told to do in the last deal; another one replaces it.
    deal: u32,
    queue: VecDeque<UnitId>,
    /// Units that are told by themselves.
    alone: BTreeSet<UnitId>,
    /// The unit in work, of which round.
    running: Option<(Round, UnitId)>,
    /// Everything it has of this round: a new leader wants to know.
    outcomes: BTreeMap<UnitId, Outcome>,
    untold: Vec<UnitId>,
    told: f64,
}

impl Worker {
    /// Takes units behind those it has; units of another round replace everything.
    pub fn assign(
        &mut self,
        round: Round,
        deal: u32,
        units: &[UnitId],
        alone: bool,
    ) -> Vec<Message> {
        self.enter(round);
        if std::mem::replace(&mut self.deal, deal) != deal {
            self.reset();
        }
        let mut known = Vec::new();
        for &unit in units {
            if self.outcomes.contains_key(&unit) {
                known.push(unit);
            } else if self.running != Some((round, unit)) && !self.queue.contains(&unit) {
                self.queue.push_back(unit);
                if alone {
                    self.alone.insert(unit);
                }
            }
        }
        // It has them already. Each is told by itself, since nobody knows with which others it was told before.
        self.untold.retain(|unit| !known.contains(unit));
        let told = known.iter().map(|&unit| self.report(round, &[unit]));
        told.collect()
    }

    pub fn cancel(&mut self, round: Round, unit: UnitId) -> Option<Message> {
        if self.round != Some(round) || !self.queue.contains(&unit) {
            return None;
        }
        self.queue.retain(|&held| held != unit);
        let idle = self.queue.is_empty() && self.running.is_none();
        idle.then(|| self.tell(round))
    }

    /// The next unit; before the last one it has, the leader is asked for more.
    pub fn next(&mut self, now: f64, applied: u32) -> Option<(Round, UnitId, Option<Message>)> {
        let round = self.round.filter(|round| round.step == applied)?;
        let unit = self.queue.pop_front()?;
        self.running = Some((round, unit));
        let ask = self.queue.is_empty();
        Some((round, unit, ask.then(|| self.tell_at(now, round))))
    }

    /// The unit that comes after the one in work, if this rank was told already.
    pub fn upcoming(&self) -> Option<(Round, UnitId)> {
        let (round, _) = self
            .running
            .filter(|(round, _)| self.round == Some(*round))?;
        Some((round, *self.queue.front()?))
    }

    /// The unit in work is finished. Results are told after `report_s` at the latest.
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
            self.untold.push(unit);
        }
        if self.queue.is_empty() || now - self.told > report_s {
            messages.push(self.tell_at(now, round));
        }
        messages
    }

    /// Forgets what it was told to do, not what it has done. The unit in work isn't part of any deal from now on.
    pub fn reset(&mut self) {
        self.queue.clear();
        self.alone.clear();
        self.untold.clear();
        self.alone.extend(self.running.map(|(_, unit)| unit));
    }

    /// Everything it has of the round it is in.
    pub fn results(&self) -> Option<(Round, Vec<(UnitId, Outcome)>)> {
        let all = self.outcomes.iter();
        Some((
            self.round?,
            all.map(|(&unit, outcome)| (unit, outcome.clone()))
                .collect(),
        ))
    }

    /// Forgets also what it has done, and the unit in work: another round begins, or its weights were wrong.
    pub fn forget(&mut self) {
        self.running = None;
        self.reset();
        self.round = None;
        self.outcomes.clear();
    }

    fn enter(&mut self, round: Round) {
        if self.round != Some(round) {
            self.forget();
            self.round = Some(round);
        }
    }

    fn tell_at(&mut self, now: f64, round: Round) -> Message {
        self.told = now;
        self.tell(round)
    }

    fn tell(&mut self, round: Round) -> Message {
        let untold = std::mem::take(&mut self.untold);
        self.report(round, &untold)
    }

    fn report(&self, round: Round, units: &[UnitId]) -> Message {
        let mut counts = Vec::new();
        let mut results = Vec::with_capacity(units.len());
        let mut figures = Vec::new();
        for &unit in units {
            let outcome = &self.outcomes[&unit];
            add(&mut counts, &outcome.counts);
            results.push((unit, outcome.values.clone()));
            if !outcome.figures.is_empty() {
                figures.push((unit, outcome.figures.clone()));
            }
        }
        let ready = self.queue.is_empty();
        Message::Report(Report {
            round,
            deal: self.deal,
            ready,
            results,
            counts,
            figures,
        })
    }
}

/// Adds counts place by place.
pub(super) fn add(sums: &mut Vec<u64>, counts: &[u64]) {
    if sums.len() < counts.len() {
        sums.resize(counts.len(), 0);
    }
    for (sum, count) in sums.iter_mut().zip(counts) {
        *sum = sum.wrapping_add(*count);
    }
}
