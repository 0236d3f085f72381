//! The methods that the main thread of a rank calls.

use super::clocks::BEATS;
use super::leader::Turn;
use super::transitions::Role;
use super::{Message, Outcome, Rank, Round, Step, Table, WeightsDigest};
use crate::schedule::ScheduleError;

/// The longest time that a rank with further units waits before it reports its results.
const REPORT_S: f64 = 5.0;

/// The main thread of every rank.
impl Rank {
    /// The next step of the main thread. The main thread calls this when it has carried out the previous step.
    pub fn poll_step(&mut self, now: f64) -> Step {
        self.clocks.worked = now;
        self.progress.hello_is_due |= self.takeover.complete(self.leads());
        if std::mem::take(&mut self.progress.hello_is_due) {
            self.say_hello();
            self.settle(now);
        }
        if let Some(step) = self.shared.steps.pop_front() {
            match step {
                Step::Apply { iteration, .. } => self.progress.applied = iteration + 1,
                Step::Lead => self.takeover.begin(),
                Step::Follow => self.takeover.give_up(),
                Step::Rebuild { .. } => self.progress.rebuilds += 1,
                _ => {}
            }
            return step;
        }
        let applied = self.progress.applied;
        if self.shared.result.is_none()
            && let Some((round, unit, report)) = self.work.next(now, applied)
        {
            if let Some(report) = report {
                self.shared.send_to_leader(report);
                self.settle(now);
            }
            return Step::Evaluate { round, unit };
        }
        let Role::Leading(leader) = &mut self.role else {
            return Step::Wait;
        };
        match leader.poll(&mut self.shared, applied) {
            Turn::Wait => Step::Wait,
            Turn::Complete => Step::Complete,
            Turn::End(result) => {
                self.end(result);
                self.shared.steps.pop_front().unwrap_or(Step::Wait)
            }
        }
    }

    /// Reports that the main thread makes progress in a long step.
    pub fn alive(&mut self, now: f64) {
        self.clocks.worked = now;
    }

    /// Reports the outcome of the unit of the last [`Step::Evaluate`].
    pub fn evaluated(&mut self, now: f64, outcome: Outcome) {
        self.clocks.worked = now;
        let limit_s = self.shared.settings.unit_timeout_s;
        let report_s = if limit_s > 0.0 {
            REPORT_S.min(limit_s / BEATS)
        } else {
            REPORT_S
        };
        for report in self.work.done(now, outcome, report_s) {
            self.shared.send_to_leader(report);
        }
        self.settle(now);
    }

    /// Reports the digest of the master weights after an iteration. All ranks report it after the same iterations.
    pub fn digest(&mut self, now: f64, iteration: u32, digest: u64) {
        let digest = WeightsDigest {
            iteration,
            digest,
            rebuilds: self.progress.rebuilds,
        };
        self.progress.digest = Some(digest);
        self.shared.send_to_leader(Message::Digest(digest));
        self.settle(now);
    }

    /// Reports to the leader, and to each new leader, that this rank was asked to end the call soon, for example by a signal.
    pub fn halt(&mut self, now: f64) {
        if !std::mem::replace(&mut self.halting, true) {
            self.shared.send_to_leader(Message::Halt);
            self.settle(now);
        }
    }

    /// Reports to all other ranks that this rank failed. It evaluates no further units.
    pub fn resign(&mut self, now: f64, reason: &str) {
        self.work.forget();
        self.announce_failure(reason);
        self.elect(now);
        if let Role::Following(follower) = &mut self.role {
            let behind = std::mem::take(&mut follower.incoming).into_behind();
            self.role = Role::Resigned;
            for message in behind {
                self.obey(now, message);
            }
        }
        self.settle(now);
    }
}

/// The main thread of the leader. If this rank does not lead (any more), these methods do nothing.
impl Rank {
    /// Adds the records of the leader's journal from `first` on. They are applied before anything else. This rank may have
    /// received some of them since it opened the journal. Returns false if it has different records for these iterations.
    pub fn restore(&mut self, now: f64, first: u32, records: Vec<Vec<u8>>) -> bool {
        let Role::Leading(leader) = &mut self.role else {
            return true;
        };
        if !self.shared.history.agrees(first, &records) {
            return false;
        }
        let known = (self.shared.history.count() - first) as usize;
        leader.restore(&mut self.shared, records.into_iter().skip(known));
        self.settle(now);
        true
    }

    /// Opens a round of units with these expected costs. Ranks that come later join it.
    ///
    /// # Errors
    /// If there are no units, or a cost is not finite and > 0.
    pub fn begin(&mut self, now: f64, round: Round, costs: &[f64]) -> Result<(), ScheduleError> {
        let outdated = self.is_outdated();
        if let Role::Leading(leader) = &mut self.role
            && !outdated
        {
            leader.begin(now, &mut self.shared, round, costs)?;
            self.settle(now);
        }
        Ok(())
    }

    /// Takes the complete table, after [`Step::Complete`]; none if the round was voided in the meantime.
    pub fn take_table(&mut self) -> Option<Table> {
        match &mut self.role {
            Role::Leading(leader) => leader.dealing.take_table(),
            _ => None,
        }
    }

    /// Sends all ranks the record of an iteration, which the journal already holds. Returns false if this rank no longer leads
    /// or has received another record of the iteration: the next leader finds the record in the journal that it takes over.
    pub fn publish(&mut self, now: f64, iteration: u32, payload: Vec<u8>) -> bool {
        match &mut self.role {
            Role::Leading(leader) if iteration == self.shared.history.count() => {
                leader.publish(&mut self.shared, payload);
                self.settle(now);
                true
            }
            _ => false,
        }
    }

    /// Sets the message that this leader sends to each rank before anything else, also to ranks that join later.
    pub fn set_welcome(&mut self, now: f64, payload: Vec<u8>) {
        if let Role::Leading(leader) = &mut self.role {
            leader.greeting.set_welcome(&mut self.shared, payload);
            self.settle(now);
        }
    }

    /// Sends an entry for the journals of other hosts.
    pub fn note(&mut self, payload: &[u8]) {
        if let Role::Leading(leader) = &self.role {
            let payload = payload.to_vec();
            let ranks = leader.greeting.others(&self.shared);
            self.shared.post_all(ranks, &Message::Note { payload });
        }
    }

    /// Takes the journal over again from a rank that took it over and now is lost or follows this rank.
    pub fn take_over_again(&mut self) {
        if self.leads() {
            self.shared.take_over();
        }
    }

    /// Announces the result of the call. [`Step::Finished`] follows when all ranks that take part know it.
    pub fn finish(&mut self, now: f64, payload: Vec<u8>) {
        let outdated = self.is_outdated();
        if let Role::Leading(leader) = &mut self.role
            && !outdated
        {
            leader.finish(&mut self.shared, payload);
            self.work.forget();
            self.settle(now);
        }
    }

    /// Ends the call with an error on all other ranks.
    pub fn stop(&mut self, payload: Vec<u8>) {
        let others = self.shared.roster.others();
        self.shared.post_all(others, &Message::Stop { payload });
    }

    /// Whether this leader has received records that its main thread has not applied, so that a new round would be void. If
    /// so, [`Step::Superseded`] follows after the steps that apply these records.
    fn is_outdated(&mut self) -> bool {
        let outdated = self.leads() && self.progress.applied < self.shared.history.count();
        if outdated {
            self.shared.steps.push_back(Step::Superseded);
        }
        outdated
    }
}
