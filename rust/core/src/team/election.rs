//! Who leads, who is lost, who comes back, and how a rank makes itself known.

use std::collections::BTreeSet;

use super::leader::Leader;
use super::message::{Hello, Message};
use super::{BEATS, Loss, Office, Rank, RankId, Step};

impl Rank {
    /// The lowest rank that takes part leads.
    pub(super) fn elect(&mut self, now: f64) {
        let mut all = 0..self.ranks;
        let head = all.find(|rank| !self.lost.contains_key(rank) && !self.left.contains(rank));
        let head = head.unwrap_or(RankId::MAX);
        if head == self.head {
            return;
        }
        self.head = head;
        self.heard = now;
        self.expect_nothing();
        if let Some(payload) = self.finished.clone() {
            // One that resigned may lack records, so what it would tell the others is of no use.
            return if self.lost.contains_key(&self.me) {
                self.end(payload);
            } else {
                self.leave(payload);
            };
        }
        if head == self.me {
            self.leader = Some(Leader::new(self.history.len()));
            self.todo.push_back(Step::Lead);
            self.worker.reset();
            self.say_hello();
            if self.settings.unit_timeout_s > 0.0 {
                // One that took this rank for silent may lead already, and shall stop before it misses its journal.
                self.beat(now, self.others());
            }
            for (rank, messages) in std::mem::take(&mut self.early) {
                for message in messages {
                    self.handle(now, rank, message);
                }
            }
            return;
        }
        if self.leader.take().is_some() {
            // What the main thread hasn't begun to take over is another's now, and it can't write what it has yet to apply.
            self.todo.retain(|step| *step != Step::Lead);
            if self.office != Office::None {
                self.led = Some(BTreeSet::new());
                self.todo.push_front(Step::Follow);
            }
        }
        if self.lost.contains_key(&self.me) {
            // A rank that resigned does no more than wait for the end.
            if head == RankId::MAX && self.left.is_empty() {
                let payload = Vec::new();
                self.todo.push_back(Step::Stopped { payload });
            } else if head == RankId::MAX {
                self.end(Vec::new());
            }
            return;
        }
        self.worker.reset();
        self.say_hello();
    }

    pub(super) fn say_hello(&mut self) {
        if !self.lost.contains_key(&self.me) {
            self.worker.reset();
            self.forget_work_behind();
            let hello = self.hello();
            if let Some(told) = &mut self.led {
                told.insert(self.head);
            }
            self.tell_head(Message::Hello(hello));
            if self.halting {
                self.tell_head(Message::Halt);
            }
        }
    }

    pub(super) fn hello(&self) -> Hello {
        let have = self.history.len();
        Hello {
            have,
            history: self.history.checksum(have).expect("its own length"),
            identity: self.identity,
            digest: self.digest,
            led: self
                .led
                .as_ref()
                .is_some_and(|told| !told.contains(&self.head)),
            results: self.worker.results(),
        }
    }

    pub(super) fn lose(&mut self, now: f64, rank: RankId, loss: Loss) {
        let before = self.lost.get(&rank);
        // What is worse stays: dead, resigned, silent.
        let known = match (before, &loss) {
            (None | Some(Loss::Silent), _) => before == Some(&loss),
            (Some(_), Loss::Dead) => before == Some(&Loss::Dead),
            (Some(_), _) => true,
        };
        if known || rank >= self.ranks {
            return;
        }
        self.lost.insert(rank, loss.clone());
        self.early.remove(&rank);
        if self.leader.is_some() && rank != self.me {
            self.worker_lost(now, rank, loss);
        }
        self.elect(now);
    }

    /// A silent rank speaks. Whether what it says is listened to.
    pub(super) fn come_back(&mut self, now: f64, from: RankId, message: &Message) -> bool {
        if matches!(message, Message::Resign { .. }) {
            return true;
        }
        // It may have slept, and not know that others went on without it.
        if matches!(message, Message::Stop { .. }) {
            return false;
        }
        if self.leader.is_some() && from > self.me && !matches!(message, Message::Hello(_)) {
            self.post(from, &Message::Evict);
            return false;
        }
        self.lost.remove(&from);
        if self.leader.is_some() && from > self.me {
            self.todo.push_back(Step::Back { rank: from });
        }
        // A lower rank leads again.
        self.elect(now);
        true
    }

    pub(super) fn look_at_the_clock(&mut self, now: f64) {
        let timeout = self.settings.unit_timeout_s;
        let paused = now - std::mem::replace(&mut self.ticked, now);
        if timeout > 0.0 && paused > timeout / 2.0 {
            self.heard = now;
            self.forgive(now);
        }
        // A main thread that hangs is a rank that hangs, though this thread lives.
        let works = now - self.worked < timeout;
        if timeout > 0.0 && works && now - self.spoke > timeout / BEATS {
            let all = self.others();
            self.beat(now, if self.leads() { all } else { vec![self.head] });
        }
        if self.leads() {
            self.lead_tick(now);
        } else if timeout > 0.0 && now - self.heard > timeout && self.follows() {
            self.lose(now, self.head, Loss::Silent);
        }
    }

    /// Says to these ranks that this one lives.
    fn beat(&mut self, now: f64, listeners: Vec<RankId>) {
        self.spoke = now;
        for rank in listeners {
            self.post(rank, &Message::Beat);
        }
    }

    /// All ranks that take part, as far as this one knows.
    pub(super) fn living(&self) -> BTreeSet<RankId> {
        (0..self.ranks)
            .filter(|rank| !self.lost.contains_key(rank))
            .collect()
    }
}
