//! The methods that the main thread of the leader calls.

use super::state::{Role, State};
use super::{Message, Round, Step, Table};
use crate::schedule::ScheduleError;

/// The methods that the main thread of the leader calls. If the rank does not lead (any more), they do nothing.
#[derive(Debug)]
pub struct Leading<'a>(pub(super) &'a mut State);

impl Leading<'_> {
    /// Adds the records of the leader's journal from `first` on. They are applied before anything else. This rank may have
    /// received some of them since it opened the journal. Returns false if it has different records for these iterations.
    pub fn restore(&mut self, now: f64, first: u32, records: Vec<Vec<u8>>) -> bool {
        let Role::Leading(leader) = &mut self.0.role else {
            return true;
        };
        if !self.0.shared.history.agrees(first, &records) {
            return false;
        }
        let known = (self.0.shared.history.count() - first) as usize;
        leader.restore(&mut self.0.shared, records.into_iter().skip(known));
        self.0.settle(now);
        true
    }

    /// Opens a round of units with these expected costs. Ranks that come later join it.
    ///
    /// # Errors
    /// If there are no units, or a cost is not finite and > 0.
    pub fn begin(&mut self, now: f64, round: Round, costs: &[f64]) -> Result<(), ScheduleError> {
        let outdated = self.is_outdated();
        if let Role::Leading(leader) = &mut self.0.role
            && !outdated
        {
            leader.begin(now, &mut self.0.shared, round, costs)?;
            self.0.settle(now);
        }
        Ok(())
    }

    /// Takes the complete table, after [`Step::Complete`]; none if the round was voided in the meantime.
    pub fn take_table(&mut self) -> Option<Table> {
        match &mut self.0.role {
            Role::Leading(leader) => leader.dealing.take_table(),
            _ => None,
        }
    }

    /// Sends all ranks the record of an iteration, which the journal already holds. Returns false if this rank no longer leads
    /// or has received another record of the iteration: the next leader finds the record in the journal that it takes over.
    pub fn publish(&mut self, now: f64, iteration: u32, payload: Vec<u8>) -> bool {
        match &mut self.0.role {
            Role::Leading(leader) if iteration == self.0.shared.history.count() => {
                leader.publish(&mut self.0.shared, payload);
                self.0.settle(now);
                true
            }
            _ => false,
        }
    }

    /// Sets the message that this leader sends to each rank before anything else, also to ranks that join later.
    pub fn set_welcome(&mut self, now: f64, payload: Vec<u8>) {
        if let Role::Leading(leader) = &mut self.0.role {
            leader.greeting.set_welcome(&mut self.0.shared, payload);
            self.0.settle(now);
        }
    }

    /// Sends an entry for the journals of other hosts.
    pub fn note(&mut self, payload: &[u8]) {
        if let Role::Leading(leader) = &self.0.role {
            let payload = payload.to_vec();
            let ranks = leader.greeting.others(&self.0.shared);
            self.0.shared.post_all(ranks, &Message::Note { payload });
        }
    }

    /// Takes the journal over again from a rank that took it over and now is lost or follows this rank.
    pub fn take_over_again(&mut self) {
        if self.0.leads() {
            self.0.shared.take_over();
        }
    }

    /// Announces the result of the call. [`Step::Finished`] follows when all ranks that take part know it.
    pub fn finish(&mut self, now: f64, payload: Vec<u8>) {
        let outdated = self.is_outdated();
        if let Role::Leading(leader) = &mut self.0.role
            && !outdated
        {
            leader.finish(&mut self.0.shared, payload);
            self.0.work.forget();
            self.0.settle(now);
        }
    }

    /// Ends the call with an error on all other ranks.
    pub fn stop(&mut self, payload: Vec<u8>) {
        let others = self.0.shared.roster.others();
        self.0.shared.post_all(others, &Message::Stop { payload });
    }

    /// Whether this leader has received records that its main thread has not applied, so that a new round would be void. If
    /// so, [`Step::Superseded`] follows after the steps that apply these records.
    fn is_outdated(&mut self) -> bool {
        let outdated = self.0.leads() && self.0.progress.applied < self.0.shared.history.count();
        if outdated {
            self.0.shared.steps.push_back(Step::Superseded);
        }
        outdated
    }
}
