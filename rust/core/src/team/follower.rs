//! What a rank makes of messages: those of its leader, and which belong to a leader.

use super::message::Message;
use super::{Loss, Rank, RankId, Step};

impl Rank {
    pub(super) fn handle(&mut self, now: f64, from: RankId, message: Message) {
        // It says nothing of its sender, who may have slept since.
        if let Message::Piece {
            leader,
            iteration,
            piece,
            bytes,
        } = message
        {
            return self.take_piece(now, leader, iteration, piece, bytes);
        }
        if self.lost.get(&from) == Some(&Loss::Silent) && !self.come_back(now, from, &message) {
            return;
        }
        if from == self.head {
            self.heard = now;
        }
        if let Some(leader) = &mut self.leader {
            leader.hear(now, from);
        }
        match message {
            Message::Hello(_)
            | Message::Report(_)
            | Message::Digest { .. }
            | Message::Records { .. }
            | Message::Done { .. }
            | Message::Halt
                if self.leader.is_none() =>
            {
                self.early.entry(from).or_default().push(message);
            }
            Message::Hello(hello) => self.greeted(now, from, hello),
            Message::Beat if self.leads() && from > self.me => self.invite(from),
            Message::Resign { reason, led } => {
                self.lose(now, from, Loss::Resigned(reason));
                if led {
                    self.lead_anew();
                }
            }
            Message::Left {
                leader,
                have,
                payload,
                last,
            } => self.hear_end(now, from, (leader, have, payload), last),
            Message::Report(_)
            | Message::Digest { .. }
            | Message::Records { .. }
            | Message::Done { .. }
            | Message::Halt => {
                self.lead(now, from, message);
            }
            Message::Fetch { first } if self.leads() && from != self.me => {
                self.send_records(from, first);
            }
            // One that resigned has no leader to say hello to, and takes the end from anybody.
            _ if from == self.head || self.lost.contains_key(&self.me) => self.follow(now, message),
            _ => {}
        }
    }

    /// What the leader says, in the order in which it said it.
    fn follow(&mut self, now: f64, message: Message) {
        if self.has_to_wait(&message) {
            self.put_behind(message);
        } else {
            self.obey(now, message);
        }
    }

    pub(super) fn obey(&mut self, now: f64, message: Message) {
        match message {
            Message::Assign {
                round,
                deal,
                units,
                alone,
            } if !self.lost.contains_key(&self.me) => {
                for report in self.worker.assign(round, deal, &units, alone) {
                    self.tell_head(report);
                }
            }
            Message::Cancel { round, unit } => {
                if let Some(report) = self.worker.cancel(round, unit) {
                    self.tell_head(report);
                }
            }
            // One that resigned and knows the end takes no more: it may have asked for a record before.
            Message::Record { iteration, payload }
                if iteration == self.history.len()
                    && !(self.finished.is_some() && self.lost.contains_key(&self.me)) =>
            {
                self.learn(payload);
            }
            Message::Published(published) => self.expect(now, published),
            Message::Fetch { first } => {
                let records = self.history.since(first).to_vec();
                self.tell_head(Message::Records { first, records });
            }
            Message::Agreed { iteration, digest } => {
                self.todo.push_back(Step::Agreed { iteration, digest });
            }
            // Of another leader it may have been asked that already.
            Message::Heal { healed, .. } if healed < self.healed => {}
            Message::Heal { iteration, .. } => {
                self.worker.forget();
                self.todo.push_back(Step::Heal { iteration });
            }
            Message::Welcome { payload } => self.todo.push_back(Step::Welcome { payload }),
            Message::Note { payload } => self.todo.push_back(Step::Note { payload }),
            // A leader that slept may end the call without records that it lacks: it is told of them.
            Message::Finish { have, .. }
                if have != self.history.len() && !self.lost.contains_key(&self.me) =>
            {
                self.greet = true;
            }
            Message::Finish { payload, .. } => {
                self.finished = Some(payload);
                self.finished_by = self.head;
                self.worker.forget();
                let have = self.history.len();
                self.tell_head(Message::Done { have });
            }
            Message::Release => {
                if let Some(payload) = self.finished.clone() {
                    self.end(payload);
                } else if self.lost.contains_key(&self.me) {
                    // The leader said the result before it knew that this rank has resigned, and waits for the end.
                    self.end(Vec::new());
                }
            }
            Message::Stop { payload } => {
                self.stopped = true;
                self.todo.push_back(Step::Stopped { payload });
            }
            // Its main thread says so itself: that one may hang.
            Message::Evict => self.greet = true,
            _ => {}
        }
    }

    /// A record this rank didn't have. A result that was said before it is none any more.
    pub(super) fn learn(&mut self, payload: Vec<u8>) {
        let iteration = self.history.len();
        self.finished = None;
        self.history.push(payload.clone());
        self.todo.push_back(Step::Apply { iteration, payload });
        self.arrived();
    }
}
