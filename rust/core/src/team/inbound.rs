//! What a rank makes of the messages of its call.

use super::state::{Role, State};
use super::{CallEnd, Loss, Message, RankId, Step};

impl State {
    /// Handles messages to itself, and those that no longer have to wait, until there are none. Then the call may be over.
    pub fn settle(&mut self, now: f64) {
        loop {
            if let Some(message) = self.shared.inbox.pop_front() {
                self.handle(now, self.shared.me(), message);
            } else if let Role::Following(follower) = &mut self.role
                && let Some(message) = follower.incoming.next_behind()
            {
                self.obey(now, message);
            } else if !self.leave_if_over() {
                return;
            }
        }
    }

    /// Handles a message of this call.
    pub fn handle(&mut self, now: f64, from: RankId, message: Message) {
        // The sender of a piece may have been asleep since it sent it, so a piece is no sign of life.
        let piece = matches!(message, Message::Piece(_));
        let silent = self.shared.roster.is(from, &Loss::Silent);
        if silent && !piece && !self.come_back(now, from, &message) {
            return;
        }
        let from_leader = self.shared.roster.leader == Some(from);
        if from_leader && !piece {
            self.clocks.heard = now;
        }
        if let (Role::Leading(leader), false) = (&mut self.role, piece) {
            leader.heard.insert(from, now);
        }
        match (&mut self.role, message) {
            (Role::Left(_), _) => {}
            (Role::Following(follower), Message::Piece(piece)) => {
                if self.shared.roster.leader == Some(piece.leader) {
                    let record = follower.incoming.handle_piece(now, &mut self.shared, piece);
                    self.learn(record);
                }
            }
            (_, Message::Resign { reason, led }) => {
                self.lose(now, from, Loss::Failed(reason));
                if led && self.leads() {
                    self.shared.take_over();
                }
            }
            (_, Message::Left(end)) => self.handle_left(now, from, end),
            (Role::Leading(_), message) => self.lead(now, from, message),
            (Role::Following(follower), message) if message.is_for_leader() => {
                follower.early.entry(from).or_default().push(message);
            }
            (Role::Following(follower), message) if from_leader => {
                let have = self.shared.history.count();
                if let Some(message) = follower.incoming.delay(message, have) {
                    self.obey(now, message);
                }
            }
            // It has no leader to send a hello to, and takes the end from any rank.
            (Role::Resigned, message) => self.obey(now, message),
            (Role::Following(_), _) => {}
        }
    }

    /// Messages to the leader, and of the leader to itself.
    fn lead(&mut self, now: f64, from: RankId, message: Message) {
        let Role::Leading(leader) = &mut self.role else {
            return;
        };
        let shared = &mut self.shared;
        match message {
            Message::Hello(hello) => leader.handle_hello(now, shared, from, hello),
            Message::Report(report) => leader.dealing.report(now, shared, from, &report),
            Message::Digest(digest) => leader.handle_digest(now, shared, from, digest),
            Message::Records { first, records } => {
                leader.handle_records(shared, first, records);
                if !self.leave_if_over()
                    && let Role::Leading(leader) = &mut self.role
                {
                    leader.share_records(now, &mut self.shared, from);
                }
            }
            Message::Done { have } => leader.handle_done(shared, from, have),
            Message::Halt => shared.steps.push_back(Step::Halt),
            message if from == shared.me() => self.obey(now, message),
            Message::Beat if from > shared.me() => leader.greeting.invite(shared, from),
            Message::Fetch { first } => leader.greeting.send_records(shared, from, first),
            _ => {}
        }
    }

    /// Carries out a message of the leader that does not have to wait. A rank that failed only waits for the end of the call.
    pub fn obey(&mut self, now: f64, message: Message) {
        let (have, resigned) = (self.shared.history.count(), self.shared.roster.resigned());
        match message {
            _ if matches!(self.role, Role::Left(_)) => {}
            Message::Fetch { first } => {
                let records = self.shared.history.since(first).to_vec();
                self.shared
                    .send_to_leader(Message::Records { first, records });
            }
            // A leader that slept may end the call without records that it lacks: the hello tells it of them.
            Message::Finish { have: its, .. } if its != have && !resigned => {
                self.progress.hello_is_due = true;
            }
            Message::Finish { payload, .. } => {
                let leader = self.shared.roster.leader;
                self.shared.result = leader.map(|leader| CallEnd {
                    leader,
                    have,
                    payload,
                    last: None,
                });
                self.work.forget();
                self.shared.send_to_leader(Message::Done { have });
            }
            Message::Release => {
                // The leader may have announced the result before it knew that this rank failed.
                let none = resigned.then(CallEnd::default);
                if let Some(result) = self.shared.result.clone().or(none) {
                    self.end(result);
                }
            }
            Message::Stop { payload } => {
                self.stopped = true;
                self.shared.steps.push_back(Step::Stopped { payload });
            }
            message if !resigned => self.work_for_leader(now, message),
            _ => {}
        }
    }

    fn work_for_leader(&mut self, now: f64, message: Message) {
        match message {
            Message::Assign(assignment) => {
                for report in self.work.assign(&assignment) {
                    self.shared.send_to_leader(report);
                }
            }
            Message::Cancel { round, unit } => {
                if let Some(report) = self.work.cancel(round, unit) {
                    self.shared.send_to_leader(report);
                }
            }
            Message::Record { iteration, payload } if iteration == self.shared.history.count() => {
                self.learn(Some(payload));
            }
            Message::Published(published) => {
                if let Role::Following(follower) = &mut self.role {
                    let shared = &mut self.shared;
                    let record = follower.incoming.handle_published(now, shared, published);
                    self.learn(record);
                }
            }
            Message::Agreed { iteration, digest } => {
                let step = Step::Agreed { iteration, digest };
                self.shared.steps.push_back(step);
            }
            // If it has rebuilt them since, another leader asked for it.
            Message::Rebuild {
                iteration,
                rebuilds,
            } if rebuilds >= self.progress.rebuilds => {
                self.work.forget();
                self.shared.steps.push_back(Step::Rebuild { iteration });
            }
            Message::Welcome { payload } => self.shared.steps.push_back(Step::Welcome { payload }),
            Message::Note { payload } => self.shared.steps.push_back(Step::Note { payload }),
            // The main thread does it when it asks for a step: it may hang.
            Message::Evict => self.progress.hello_is_due = true,
            _ => {}
        }
    }

    /// Appends a record that this rank lacked, if there is one.
    pub fn learn(&mut self, record: Option<Vec<u8>>) {
        if let Some(record) = record {
            self.shared.learn(record);
            if let Role::Following(follower) = &mut self.role {
                follower.incoming.forget_arrived(&mut self.shared);
            }
        }
    }
}
