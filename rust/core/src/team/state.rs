//! The state of a rank in a call, and how it changes its role: when leaders change, when ranks are lost or come back, and when
//! a call ends.

use std::collections::BTreeMap;

use super::clocks::Clocks;
use super::ending::Ended;
use super::incoming::Incoming;
use super::leader::Leader;
use super::shared::Shared;
use super::takeover::Takeover;
use super::work::WorkQueue;
use super::{CallEnd, Hello, Loss, Message, RankId, Step, WeightsDigest};

/// What a rank knows and does in a call. Most of it is fresh in each call; see [`State::start_call`].
#[derive(Debug)]
pub(super) struct State {
    pub shared: Shared,
    pub role: Role,
    pub takeover: Takeover,
    pub work: WorkQueue,
    pub clocks: Clocks,
    pub progress: Progress,
    /// The end of this call according to a rank that left it, while this rank lacks records of the call.
    pub reported_end: Option<CallEnd>,
    /// Whether the leader ended this call with an error.
    pub stopped: bool,
    /// Whether this rank was asked to end this call soon.
    pub halting: bool,
}

/// How far the main thread is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The number of records in the `Apply` steps of the main thread.
    pub applied: u32,
    /// The last digest of its weights.
    pub digest: Option<WeightsDigest>,
    /// The number of rebuilds of the weights that the main thread has begun.
    pub rebuilds: u32,
    /// Whether this rank was taken for lost: it sends a hello when the main thread asks for the next step.
    pub hello_is_due: bool,
}

/// The role of a rank in a call, with the state that only this role needs.
#[derive(Debug)]
pub(super) enum Role {
    /// Follows the leader.
    Following(Follower),
    /// Is the lowest rank that takes part.
    Leading(Box<Leader>),
    /// Failed: does nothing but wait for the end of the call.
    Resigned,
    /// Is in no call, and answers ranks that are still in the one it left last.
    Left(Option<Ended>),
}

/// A rank that follows its leader.
#[derive(Debug, Default)]
pub(super) struct Follower {
    pub incoming: Incoming,
    /// Messages of ranks that took this one for their leader before it led.
    pub early: BTreeMap<RankId, Vec<Message>>,
}

impl State {
    /// The state of a rank that has not begun a call.
    pub fn new(shared: Shared) -> Self {
        Self {
            shared,
            role: Role::Left(None),
            takeover: Takeover::default(),
            work: WorkQueue::default(),
            clocks: Clocks::default(),
            progress: Progress::default(),
            reported_end: None,
            stopped: false,
            halting: false,
        }
    }

    /// Begins the next call. Returns the end of the one before.
    pub fn start_call(&mut self, now: f64) -> Option<Ended> {
        let following = Role::Following(Follower::default());
        let before = std::mem::replace(&mut self.role, following);
        self.shared.call += 1;
        self.shared.result = None;
        self.shared.roster.left.clear();
        // Records that the main thread was not given in the call before.
        self.shared
            .steps
            .retain(|step| matches!(step, Step::Apply { .. }));
        self.takeover = Takeover::default();
        self.work.forget();
        self.clocks = Clocks::starting(now);
        (self.reported_end, self.stopped, self.halting) = (None, false, false);
        match before {
            Role::Left(ended) => ended,
            _ => None,
        }
    }

    pub fn leads(&self) -> bool {
        matches!(self.role, Role::Leading(_))
    }

    /// Follows the lowest rank that takes part, or leads.
    pub fn elect(&mut self, now: f64) {
        let lowest = self.shared.roster.lowest();
        if !matches!(self.role, Role::Left(_)) && lowest != self.shared.roster.leader {
            self.change_leader(now, lowest);
        }
    }

    pub fn change_leader(&mut self, now: f64, leader: Option<RankId>) {
        self.shared.roster.leader = leader;
        self.clocks.heard = now;
        if let Some(result) = self.shared.result.clone() {
            // The leader that announced it does not take part any more.
            return self.leave(result, |_| true);
        }
        self.step_down();
        if self.shared.roster.resigned() {
            self.role = Role::Resigned;
            self.end_if_alone();
        } else if leader == Some(self.shared.me()) {
            self.become_leader(now);
        } else {
            match &mut self.role {
                // If a record of the last leader counts, the new one sends it.
                Role::Following(follower) => follower.incoming = Incoming::default(),
                role => *role = Role::Following(Follower::default()),
            }
            self.say_hello();
        }
    }

    fn become_leader(&mut self, now: f64) {
        let leading = Role::Leading(Box::new(Leader::new(&self.shared)));
        let before = std::mem::replace(&mut self.role, leading);
        self.shared.steps.push_back(Step::Lead);
        self.say_hello();
        if self.shared.settings.unit_timeout_s > 0.0 {
            // A rank that took this one for silent may lead already. It has to stop before its journal is taken.
            self.send_beat(now, self.shared.roster.others());
        }
        if let Role::Following(follower) = before {
            for (rank, messages) in follower.early {
                for message in messages {
                    self.handle(now, rank, message);
                }
            }
        }
    }

    /// A leader stops leading. A takeover that its main thread has not begun is dropped.
    fn step_down(&mut self) {
        if self.leads() {
            self.shared.steps.retain(|step| *step != Step::Lead);
            if self.takeover.lose() {
                // First of all: it can't write the records to the journal that it has yet to apply.
                self.shared.steps.push_front(Step::Follow);
            }
        }
    }

    /// This rank failed. If no other rank takes part, nothing is left to wait for.
    fn end_if_alone(&mut self) {
        if self.shared.roster.leader.is_some() {
            return;
        }
        if self.shared.roster.left.is_empty() {
            let payload = Vec::new();
            self.shared.steps.push_back(Step::Stopped { payload });
        } else {
            self.end(CallEnd::default());
        }
    }

    /// Tells all other ranks that this one failed.
    pub fn announce_failure(&mut self, reason: &str) {
        let (reason, led) = (reason.to_owned(), self.takeover.started());
        let loss = Loss::Failed(reason.clone());
        let others = self.shared.roster.others();
        self.shared
            .post_all(others, &Message::Resign { reason, led });
        self.shared.roster.lose(self.shared.roster.me, &loss);
    }

    pub fn say_hello(&mut self) {
        match &mut self.role {
            Role::Following(follower) => follower.incoming.forget_assignments(),
            Role::Leading(_) => {}
            Role::Resigned | Role::Left(_) => return,
        }
        self.work.reset();
        let hello = self.hello();
        self.takeover.announce_to(self.shared.roster.leader);
        self.shared.send_to_leader(Message::Hello(hello));
        if self.halting {
            self.shared.send_to_leader(Message::Halt);
        }
    }

    pub fn hello(&self) -> Hello {
        Hello {
            have: self.shared.history.count(),
            history: self.shared.history.checksum_of_all(),
            identity: self.shared.identity,
            digest: self.progress.digest,
            led: self.takeover.is_news_to(self.shared.roster.leader),
            results: self.work.results(),
        }
    }

    /// Sends these ranks a sign of life.
    pub fn send_beat(&mut self, now: f64, ranks: Vec<RankId>) {
        self.clocks.beat = now;
        self.shared.post_all(ranks, &Message::Beat);
    }

    pub fn lose(&mut self, now: f64, rank: RankId, loss: Loss) {
        if !self.shared.roster.lose(rank, &loss) {
            return;
        }
        match &mut self.role {
            Role::Following(follower) => drop(follower.early.remove(&rank)),
            Role::Leading(leader) => leader.lose(now, &mut self.shared, rank, loss),
            Role::Resigned | Role::Left(_) => {}
        }
        self.elect(now);
    }

    /// A rank that counts as silent sent a message. Returns whether to handle it.
    pub fn come_back(&mut self, now: f64, from: RankId, message: &Message) -> bool {
        let below = self.leads() && from > self.shared.me();
        match message {
            Message::Resign { .. } => return true,
            // It may have slept, and not know that others continued without it.
            Message::Stop { .. } => return false,
            Message::Hello(_) => {}
            _ if below => {
                self.shared.post(from, &Message::Evict);
                return false;
            }
            _ => {}
        }
        self.shared.roster.lost.remove(&from);
        if below {
            self.shared.steps.push_back(Step::Back { rank: from });
        }
        // A lower rank leads again.
        self.elect(now);
        true
    }

    /// Another rank knows the result of the call and has left it.
    pub fn part(&mut self, now: f64, rank: RankId) {
        self.shared.roster.left.insert(rank);
        if let Role::Leading(leader) = &mut self.role {
            leader.dismiss(now, &mut self.shared, rank);
        }
        self.elect(now);
    }

    /// Another rank left the call, and reports its end and the last record.
    pub fn handle_left(&mut self, now: f64, from: RankId, mut end: CallEnd) {
        if self.shared.roster.resigned() {
            self.part(now, from);
            return self.end(end);
        }
        let lacks_one = end.have == self.shared.history.count() + 1;
        let mut last = end.last.take().filter(|_| lacks_one);
        // Not if another leader knows that this rank lacks the record: it may make the record again, of other bytes.
        let certain = self.leads() || self.shared.roster.leader == Some(end.leader);
        if certain && last.is_some() {
            if self.leads() {
                // Others led while this rank slept, and have the journal.
                self.shared.steps.push_back(Step::Follow);
            }
            self.learn(last.take());
        }
        self.part(now, from);
        if self.leads() {
            self.learn(last);
        }
        self.reported_end = Some(end);
        if !self.leave_if_over() && self.shared.result.is_none() {
            // This rank could make the same records itself, but asking is quicker.
            let first = self.shared.history.count();
            self.shared.post(from, &Message::Fetch { first });
        }
    }

    /// Leaves the call if another rank did and this one has all its records. Then it neither leads nor takes a journal over.
    pub fn leave_if_over(&mut self) -> bool {
        let have = self.shared.history.count();
        let Some(end) = self.reported_end.take_if(|end| end.have == have) else {
            return false;
        };
        if self.shared.result.is_some() {
            return false;
        }
        self.shared.result = Some(end.clone());
        self.work.forget();
        for step in &mut self.shared.steps {
            if *step == Step::Lead {
                *step = Step::Follow;
            }
        }
        self.leave(end, |_| true);
        true
    }

    /// The call is over for this rank. It tells silent ranks, since no other rank waits for them.
    pub fn end(&mut self, result: CallEnd) {
        self.leave(result, |loss| loss == Some(&Loss::Silent));
    }

    /// Leaves the call, and tells ranks how it ended, by why they are lost. A rank that failed may lack records, so it tells
    /// none.
    fn leave(&mut self, result: CallEnd, tells: impl Fn(Option<&Loss>) -> bool) {
        if let Role::Left(_) = self.role {
            return;
        }
        let records = self.shared.history.since(0).to_vec();
        let end = CallEnd {
            have: records.len() as u32,
            last: records.last().cloned(),
            ..result
        };
        let roster = &self.shared.roster;
        let mut ranks = roster.others();
        ranks.retain(|rank| !roster.resigned() && tells(roster.lost.get(rank)));
        self.shared.post_all(ranks, &Message::Left(end.clone()));
        let payload = end.payload.clone();
        self.shared.steps.push_back(Step::Finished { payload });
        self.shared.roster.leader = None;
        self.role = Role::Left(Some(Ended {
            call: self.shared.call,
            end,
            records,
        }));
    }
}
