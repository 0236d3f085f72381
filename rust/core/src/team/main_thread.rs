//! The methods that the main thread of every rank calls.

use super::clocks::BEATS;
use super::leader::Turn;
use super::leading::Leading;
use super::state::Role;
use super::{Message, Outcome, Rank, Step, WeightsDigest};

/// The longest time that a rank with further units waits before it reports its results.
const REPORT_S: f64 = 5.0;

/// The main thread of every rank.
impl Rank {
    /// The next step of the main thread. The main thread calls this when it has carried out the previous step.
    pub fn poll_step(&mut self, now: f64) -> Step {
        self.state.clocks.worked = now;
        self.state.progress.hello_is_due |= self.state.takeover.complete(self.state.leads());
        if std::mem::take(&mut self.state.progress.hello_is_due) {
            self.state.say_hello();
            self.state.settle(now);
        }
        if let Some(step) = self.state.shared.steps.pop_front() {
            match step {
                Step::Apply { iteration, .. } => self.state.progress.applied = iteration + 1,
                Step::Lead => self.state.takeover.begin(),
                Step::Follow => self.state.takeover.give_up(),
                Step::Rebuild { .. } => self.state.progress.rebuilds += 1,
                _ => {}
            }
            return step;
        }
        let applied = self.state.progress.applied;
        if self.state.shared.result.is_none()
            && let Some((round, unit, report)) = self.state.work.next(now, applied)
        {
            if let Some(report) = report {
                self.state.shared.send_to_leader(report);
                self.state.settle(now);
            }
            return Step::Evaluate { round, unit };
        }
        let Role::Leading(leader) = &mut self.state.role else {
            return Step::Wait;
        };
        match leader.poll(&mut self.state.shared, applied) {
            Turn::Wait => Step::Wait,
            Turn::Complete => Step::Complete,
            Turn::End(result) => {
                self.state.end(result);
                self.state.shared.steps.pop_front().unwrap_or(Step::Wait)
            }
        }
    }

    /// Reports that the main thread makes progress in a long step.
    pub fn alive(&mut self, now: f64) {
        self.state.clocks.worked = now;
    }

    /// Reports the outcome of the unit of the last [`Step::Evaluate`].
    pub fn evaluated(&mut self, now: f64, outcome: Outcome) {
        self.state.clocks.worked = now;
        let limit_s = self.state.shared.settings.unit_timeout_s;
        let report_s = if limit_s > 0.0 {
            REPORT_S.min(limit_s / BEATS)
        } else {
            REPORT_S
        };
        for report in self.state.work.done(now, outcome, report_s) {
            self.state.shared.send_to_leader(report);
        }
        self.state.settle(now);
    }

    /// Reports the digest of the master weights after an iteration. All ranks report it after the same iterations.
    pub fn digest(&mut self, now: f64, iteration: u32, digest: u64) {
        let digest = WeightsDigest {
            iteration,
            digest,
            rebuilds: self.state.progress.rebuilds,
        };
        self.state.progress.digest = Some(digest);
        self.state.shared.send_to_leader(Message::Digest(digest));
        self.state.settle(now);
    }

    /// Reports to the leader, and to each new leader, that this rank was asked to end the call soon, for example by a signal.
    pub fn halt(&mut self, now: f64) {
        if !std::mem::replace(&mut self.state.halting, true) {
            self.state.shared.send_to_leader(Message::Halt);
            self.state.settle(now);
        }
    }

    /// Reports to all other ranks that this rank failed. It evaluates no further units.
    pub fn resign(&mut self, now: f64, reason: &str) {
        self.state.work.forget();
        self.state.announce_failure(reason);
        self.state.elect(now);
        if let Role::Following(follower) = &mut self.state.role {
            let behind = std::mem::take(&mut follower.incoming).into_behind();
            self.state.role = Role::Resigned;
            for message in behind {
                self.state.obey(now, message);
            }
        }
        self.state.settle(now);
    }

    /// The methods of the main thread of the leader.
    pub fn leading(&mut self) -> Leading<'_> {
        Leading(&mut self.state)
    }
}
