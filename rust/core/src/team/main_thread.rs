//! What the main thread of a rank asks and reports.

use super::clocks::BEATS;
use super::leader::Turn;
use super::transitions::Role;
use super::{Message, Outcome, Rank, Round, Step, Table, WeightsDigest};
use crate::schedule::ScheduleError;

/// Results are reported after this time at the latest, also by a rank that has plenty to do.
const REPORT_S: f64 = 5.0;

/// The main thread of every rank.
impl Rank {
    /// The next step of the main thread, which has carried out the one before.
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

    /// The main thread makes progress with a step that takes long.
    pub fn alive(&mut self, now: f64) {
        self.clocks.worked = now;
    }

    /// The unit of the last [`Step::Evaluate`] has this outcome.
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

    /// The master weights have this digest after an iteration. All ranks report it after the same iterations.
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

    /// This rank was asked to end the call soon, for example by a signal. It tells its leader, and each new leader.
    pub fn halt(&mut self, now: f64) {
        if !std::mem::replace(&mut self.halting, true) {
            self.shared.send_to_leader(Message::Halt);
            self.settle(now);
        }
    }

    /// This rank failed. It tells all others, and evaluates nothing more.
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
    /// Adds records of the leader's journal, from `first` on: they are applied before anything else. This rank may have learned
    /// some of them since it opened the journal. Returns false if it knows other records in their place.
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

    /// Takes the complete table, after [`Step::Complete`]; none if the round has become void since.
    pub fn take_table(&mut self) -> Option<Table> {
        match &mut self.role {
            Role::Leading(leader) => leader.dealing.take_table(),
            _ => None,
        }
    }

    /// Sends all ranks the record of an iteration, which is in the journal. Returns false if this rank has learned of another
    /// one since or no longer leads: then the next leader finds the record in the journal that it takes over.
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

    /// Sets what all ranks must be sent before anything else, also those that come later.
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

    /// Takes the journal over again: another rank did so, and is lost or follows this rank.
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

    /// Whether this leader has learned records that its main thread does not know yet, so that what it begins is void. Then
    /// [`Step::Superseded`] follows behind these records.
    fn is_outdated(&mut self) -> bool {
        let outdated = self.leads() && self.progress.applied < self.shared.history.count();
        if outdated {
            self.shared.steps.push_back(Step::Superseded);
        }
        outdated
    }
}
