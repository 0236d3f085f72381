//! How a leader deals the units of its open round out to ranks, and takes their results.

use std::collections::BTreeMap;

use crate::schedule::{Action, Event, PolicyKind, RankId, ScheduleError, UnitId};

use crate::team::Step;
use crate::team::message::{Assignment, Message, Outcome, Report, Round};
use crate::team::open_round::{OpenRound, Table};
use crate::team::shared::Shared;

#[derive(Debug, Default)]
pub(in crate::team) struct Dealing {
    round: Option<OpenRound>,
    /// Whether the main thread knows that the table is complete.
    complete: bool,
    /// Whether digests differ. Until they agree, no unit is assigned and no result counts.
    paused: bool,
    /// The number of deals so far.
    deals: u32,
    /// The deal of each rank's units. A new deal voids the rank's earlier assignments.
    deal_of: BTreeMap<RankId, u32>,
}

impl Dealing {
    /// Opens a round over these ranks and their speeds.
    pub fn open(
        &mut self,
        now: f64,
        shared: &mut Shared,
        round: Round,
        costs: &[f64],
        ranks: &[(RankId, f64)],
    ) -> Result<(), ScheduleError> {
        let policy = shared.settings.policy;
        let opened = OpenRound::new(round, costs.to_vec(), ranks, policy)?;
        self.replace(opened, ranks);
        if !self.paused {
            self.start(now, shared, ranks);
        }
        Ok(())
    }

    /// Drops the round.
    pub fn close(&mut self) {
        self.round = None;
        self.complete = false;
    }

    /// Drops the round if it was opened before record `next` was known. Returns whether it was.
    pub fn close_before(&mut self, next: u32) -> bool {
        let void = |open: &mut OpenRound| open.round.step < next;
        self.round.take_if(void).is_some()
    }

    /// Results may come from wrong weights: the round begins again when the weights are right.
    pub fn pause(&mut self, ranks: &[(RankId, f64)], policy: PolicyKind) {
        if std::mem::replace(&mut self.paused, true) {
            return;
        }
        // Its costs were accepted before, so they are accepted again.
        let restarted =
            |open: OpenRound| OpenRound::new(open.round, open.costs, ranks, policy).ok();
        if let Some(open) = self.round.take().and_then(restarted) {
            self.replace(open, ranks);
        }
    }

    pub fn resume(&mut self, now: f64, shared: &mut Shared, ranks: &[(RankId, f64)]) {
        if std::mem::replace(&mut self.paused, false) {
            self.start(now, shared, ranks);
        }
    }

    /// A rank sent a hello and takes part from now on, perhaps again. It has forgotten the units that it was assigned before.
    pub fn join(
        &mut self,
        now: f64,
        shared: &mut Shared,
        rank: RankId,
        results: Option<(Round, Vec<(UnitId, Outcome)>)>,
        again: bool,
    ) {
        self.deal_to([rank]);
        if again
            && self
                .round
                .as_ref()
                .is_some_and(|open| open.schedule.is_alive(rank))
        {
            self.event(now, shared, Event::RankLost(rank));
        }
        let Some(open) = &mut self.round else {
            return;
        };
        let mut actions = open.event(now, Event::RankJoined(rank));
        if self.paused {
            return;
        }
        if let Some((of, results)) = results
            && of == open.round
        {
            actions.extend(open.results(now, rank, &results));
        }
        actions.extend(open.event(now, Event::RankReady(rank)));
        self.carry_out(shared, &actions);
    }

    pub fn event(&mut self, now: f64, shared: &mut Shared, event: Event) {
        if let Some(open) = &mut self.round {
            let actions = open.event(now, event);
            self.carry_out(shared, &actions);
        }
    }

    pub fn report(&mut self, now: f64, shared: &mut Shared, from: RankId, report: &Report) {
        let current = |open: &&mut OpenRound| open.round == report.round;
        let Some(open) = self.round.as_mut().filter(current) else {
            return;
        };
        // Of another deal, only the counts of a unit by itself are certain.
        let certain = self.deal_of.get(&from) == Some(&report.deal) || report.results.len() <= 1;
        if certain && open.schedule.is_alive(from) && !self.paused {
            let actions = open.report(now, from, report);
            self.carry_out(shared, &actions);
        }
    }

    /// Whether the round with these records is finished and its table was not announced yet. Notes the ranks' speeds.
    pub fn complete(&mut self, shared: &mut Shared, applied: u32) -> bool {
        let finished = |open: &&OpenRound| open.round.step == applied && open.schedule.finished();
        let Some(open) = self.round.as_ref().filter(finished) else {
            return false;
        };
        if !std::mem::replace(&mut self.complete, true) {
            shared.speeds.extend(open.schedule.speeds());
            return true;
        }
        false
    }

    /// The complete table; none if the round has become void.
    pub fn take_table(&mut self) -> Option<Table> {
        let complete = self.complete.then_some(self.round.as_mut()).flatten();
        complete.map(OpenRound::take_table)
    }

    /// The ranks that evaluate a unit, and since when.
    pub fn in_work(&self) -> impl Iterator<Item = (RankId, f64)> {
        self.round.iter().flat_map(|open| open.schedule.in_work())
    }

    fn replace(&mut self, open: OpenRound, ranks: &[(RankId, f64)]) {
        self.round = Some(open);
        self.complete = false;
        self.deal_to(ranks.iter().map(|rank| rank.0));
    }

    fn start(&mut self, now: f64, shared: &mut Shared, ranks: &[(RankId, f64)]) {
        for (rank, _) in ranks {
            self.event(now, shared, Event::RankReady(*rank));
        }
    }

    /// Voids the assignments of these ranks.
    fn deal_to(&mut self, ranks: impl IntoIterator<Item = RankId>) {
        self.deals += 1;
        for rank in ranks {
            self.deal_of.insert(rank, self.deals);
        }
    }

    /// Sends the actions of the schedule. A message has all units for one rank.
    fn carry_out(&self, shared: &mut Shared, actions: &[Action]) {
        let Some(open) = &self.round else {
            return;
        };
        let round = open.round;
        let assign = |rank: RankId, units, alone| {
            let deal = self.deal_of.get(&rank).copied().unwrap_or(0);
            Message::Assign(Assignment {
                round,
                deal,
                units,
                alone,
            })
        };
        let together = |a: &Action, b: &Action| matches!((a, b), (Action::Assign(a, _), Action::Assign(b, _)) if a == b);
        for run in actions.chunk_by(together) {
            match run[0] {
                Action::Assign(rank, _) => {
                    let unit = |action: &Action| match *action {
                        Action::Assign(_, unit) => Some(unit),
                        _ => None,
                    };
                    let units = run.iter().filter_map(unit).collect();
                    shared.send(rank, assign(rank, units, false));
                }
                Action::Duplicate(rank, unit) => {
                    shared.send(rank, assign(rank, vec![unit], true));
                }
                Action::Cancel(rank, unit) => shared.send(rank, Message::Cancel { round, unit }),
                Action::Differs {
                    unit,
                    first,
                    second,
                } => {
                    let step = Step::Differs {
                        unit,
                        first,
                        second,
                    };
                    shared.steps.push_back(step);
                }
            }
        }
    }
}
