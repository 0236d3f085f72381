//! The ranks of a job as a team: one leads, all evaluate, any may be lost at any moment. No I/O: messages and losses go
//! in, messages and steps come out, time is an argument. So a whole job can be simulated.
//!
//! ```text
//! wire thread    receive(from, bytes)  lost(rank)  tick()   ->  take_sends()
//! main thread    next() -> Step        evaluated(outcome)  digest(..)  resign(..)
//! leader's main  begin(round, costs)   -> Complete -> take_table()   publish(record)   finish(..)
//! ```
//! The leader is the lowest rank that isn't lost; it hands out units, fills the table, and publishes records. Whoever
//! becomes leader goes on from the records it has: every rank keeps them all (they are small), and what a rank has done
//! of the open round is told to the new leader. Results are functions of (round, unit) alone, so it never matters which
//! leader asked for them.
//!
//! Before a record is published, every living rank must have said hello to this leader (else one might know of a later
//! record), and the digests of the living ranks must agree (else results may come from wrong weights).

mod broadcast;
mod digests;
mod election;
mod ending;
mod follower;
mod history;
mod leader;
mod message;
mod open_round;
mod step;
mod wire;
mod worker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub use broadcast::Fan;
pub use history::History;
pub use message::{Hello, Message, Outcome, Published, Report, Round, WeightsDigest};
pub use open_round::Table;
pub use step::{Loss, Step};
pub use wire::WireError;

use crate::schedule::{PolicyKind, UnitId};
use broadcast::Arrivals;
use leader::Leader;
use worker::Worker;

/// Number of a rank in its job, from 0.
pub type RankId = u32;

/// Units that one message may name at most.
pub const MAX_UNITS: usize = 1 << 26;

/// Results are told after so many seconds at the latest, also by a worker that has plenty to do.
const REPORT_SECONDS: f64 = 5.0;

/// A rank says that it lives, and what it has done, this often within the time after which it would count as lost.
const BEATS: f64 = 4.0;

/// How the team works.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How units are handed out.
    pub policy: PolicyKind,
    /// A rank that needs longer for a unit, or says nothing for so long, counts as lost; 0: never.
    pub unit_timeout_s: f64,
    /// How records get around.
    pub fan: Fan,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: PolicyKind::Dynamic,
            unit_timeout_s: 0.0,
            fan: Fan::default(),
        }
    }
}

/// How a call ended.
#[derive(Debug)]
struct Ended {
    call: u32,
    leader: RankId,
    records: Vec<Vec<u8>>,
    payload: Vec<u8>,
}

/// Whether the main thread took the journal over as leader: it may be at it while this rank leads no more.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Office {
    None,
    Taking,
    Held,
}

/// One rank of a job.
#[derive(Debug)]
pub struct Rank {
    me: RankId,
    ranks: u32,
    settings: Settings,
    identity: u64,
    call: u32,
    lost: BTreeMap<RankId, Loss>,
    history: History,
    arrivals: Arrivals,
    /// Records that the main thread has been given.
    applied: u32,
    digest: Option<WeightsDigest>,
    /// How often the weights were made anew, or began to be.
    healed: u32,
    /// Once it has led in this call, and doesn't any more: the leaders that it has told so.
    led: Option<BTreeSet<RankId>>,
    /// What its main thread makes of it.
    office: Office,
    worker: Worker,
    leader: Option<Leader>,
    /// Who leads, as far as this rank knows.
    head: RankId,
    /// What ranks said that take this one for the leader before it does.
    early: BTreeMap<RankId, Vec<Message>>,
    speeds: BTreeMap<RankId, f64>,
    todo: VecDeque<Step>,
    finished: Option<Vec<u8>>,
    /// The leader that said so.
    finished_by: RankId,
    /// How this call ended, as ranks say that left it: by this leader, with so many records, and this result.
    known_end: Option<(RankId, u32, Vec<u8>)>,
    /// How an earlier call ended, for ranks that missed it.
    ended: Option<Ended>,
    /// The call ended with an error, as its leader said.
    stopped: bool,
    /// This rank was asked to end the call soon.
    halting: bool,
    /// A hello is due when the main thread is free: this rank was taken for lost.
    greet: bool,
    /// Ranks that left this call already.
    left: BTreeSet<RankId>,
    /// Messages of the next call, which another rank began already.
    ahead: Vec<(RankId, Vec<u8>)>,
    /// When it heard its leader last, and when it said last that it lives.
    heard: f64,
    spoke: f64,
    /// When its main thread took or finished a step last.
    worked: f64,
    /// When it looked at the clock last.
    ticked: f64,
    /// Messages to itself.
    inbox: VecDeque<Message>,
    sends: Vec<(RankId, Vec<u8>)>,
    sent: u64,
    received: u64,
}

impl Rank {
    /// Rank `me` of a job. `identity` stands for everything that must be the same on all ranks.
    pub fn new(me: RankId, ranks: u32, identity: u64, settings: Settings) -> Self {
        Self {
            me,
            ranks,
            settings,
            identity,
            call: 0,
            lost: BTreeMap::new(),
            history: History::default(),
            arrivals: Arrivals::default(),
            applied: 0,
            digest: None,
            healed: 0,
            led: None,
            office: Office::None,
            worker: Worker::default(),
            leader: None,
            head: 0,
            early: BTreeMap::new(),
            speeds: BTreeMap::new(),
            todo: VecDeque::new(),
            finished: None,
            finished_by: 0,
            known_end: None,
            ended: None,
            stopped: false,
            halting: false,
            greet: false,
            left: BTreeSet::new(),
            ahead: Vec::new(),
            heard: 0.0,
            spoke: 0.0,
            worked: 0.0,
            ticked: 0.0,
            inbox: VecDeque::new(),
            sends: Vec::new(),
            sent: 0,
            received: 0,
        }
    }

    /// Goes over to another run between two calls: other records, on other weights. All ranks do so at the same place.
    pub fn renew(&mut self, identity: u64, settings: Settings) {
        let fresh = Self::new(self.me, self.ranks, identity, settings);
        let old = std::mem::replace(self, fresh);
        self.call = old.call;
        self.lost = old.lost;
        self.ended = old.ended;
        self.ahead = old.ahead;
        self.sends = old.sends;
        (self.sent, self.received) = (old.sent, old.received);
    }

    /// Begins the next collective call. All ranks make the same calls in the same order.
    pub fn enter(&mut self, now: f64) {
        self.start_call(now);
        self.elect(now);
        self.settle(now);
        self.hear_early(now);
    }

    /// Begins the next call only to say why this rank can't take part. It says no hello, in which the others would find what
    /// it hadn't come to: another identity, say.
    pub fn enter_unable(&mut self, now: f64, reason: &str) {
        self.start_call(now);
        self.head = self.me; // it follows nobody whom it would say hello to, until it has resigned
        self.resign(now, reason);
        self.elect(now);
        self.settle(now);
        self.hear_early(now);
    }

    fn start_call(&mut self, now: f64) {
        self.call += 1;
        self.finished = None;
        self.known_end = None;
        self.stopped = false;
        self.halting = false;
        self.left.clear();
        self.todo.retain(|step| matches!(step, Step::Apply { .. }));
        self.leader = None;
        (self.office, self.led) = (Office::None, None);
        self.early.clear();
        self.worker.forget();
        (self.heard, self.spoke, self.ticked, self.worked) = (now, now, now, now);
        self.head = RankId::MAX;
    }

    /// What ranks said that began this call before this one.
    fn hear_early(&mut self, now: f64) {
        for (from, bytes) in std::mem::take(&mut self.ahead) {
            self.received -= bytes.len() as u64;
            self.receive(now, from, &bytes).expect("it was read before");
        }
    }

    /// Records of the leader's journal, from `first` on: they are applied first. It may have learnt some of them since it
    /// opened the journal. Nothing happens if this rank doesn't lead (any more); false, if it knows others in their place.
    pub fn restore(&mut self, now: f64, first: u32, records: Vec<Vec<u8>>) -> bool {
        if self.leader.is_none() {
            return true;
        }
        if !self.history.agrees(first, &records) {
            return false;
        }
        let known = (self.history.len() - first) as usize;
        for record in records.into_iter().skip(known) {
            self.learn(record);
        }
        self.void_what_was_begun();
        self.share_records(now);
        true
    }

    /// The rank that leads, as far as this one knows.
    pub fn head(&self) -> RankId {
        self.head
    }

    /// Whether this rank leads.
    pub fn leads(&self) -> bool {
        self.leader.is_some()
    }

    /// Whether this rank heard that others ended the call.
    pub fn over(&self) -> bool {
        self.finished.is_some() || self.known_end.is_some() || self.stopped
    }

    /// Whether this rank has a leader that isn't itself.
    fn follows(&self) -> bool {
        self.head != self.me && self.head < self.ranks
    }

    /// Who was lost, and why.
    pub fn losses(&self) -> &BTreeMap<RankId, Loss> {
        &self.lost
    }

    /// The records it has.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Payload bytes (sent, received) so far.
    pub fn traffic(&self) -> (u64, u64) {
        (self.sent, self.received)
    }

    /// Messages to be sent, (to, bytes), in order.
    pub fn take_sends(&mut self) -> Vec<(RankId, Vec<u8>)> {
        std::mem::take(&mut self.sends)
    }

    /// A message came.
    ///
    /// # Errors
    /// If it is no message; nothing changes.
    pub fn receive(&mut self, now: f64, from: RankId, bytes: &[u8]) -> Result<(), WireError> {
        let (call, message) = Message::decode(bytes)?;
        self.received += bytes.len() as u64;
        if call < self.call {
            match message {
                Message::Hello(_) | Message::Fetch { .. } => self.tell_end(call, from, &message),
                Message::Resign { reason, .. } => {
                    self.lose(now, from, Loss::Resigned(reason));
                }
                _ => {}
            }
            self.settle(now);
            return Ok(());
        }
        if call > self.call {
            if self.lost.contains_key(&self.me) {
                self.end(Vec::new());
            } else {
                // This call is over for it: it tells how it ended.
                let hello = Message::Hello(self.hello());
                self.post(from, &hello);
                self.parted(now, from);
            }
            self.settle(now);
            self.ahead.push((from, bytes.to_vec()));
            return Ok(());
        }
        if self.lost.get(&from) == Some(&Loss::Dead) {
            return Ok(());
        }
        self.handle(now, from, message);
        self.settle(now);
        Ok(())
    }

    /// A rank's process is gone.
    pub fn lost(&mut self, now: f64, rank: RankId) {
        self.lose(now, rank, Loss::Dead);
        self.settle(now);
    }

    /// Time passed: call it a few times a second.
    pub fn tick(&mut self, now: f64) {
        self.look_at_the_clock(now);
        self.look_for_record(now);
        self.settle(now);
    }

    /// The next step of the main thread; the one before is finished.
    pub fn next(&mut self, now: f64) -> Step {
        self.worked = now;
        if self.office == Office::Taking {
            self.office = Office::Held;
            // Another rank leads by now, and this one has just taken the journal from it.
            if self.leader.is_none() {
                self.greet = true;
                self.led = Some(BTreeSet::new());
            }
        }
        if std::mem::take(&mut self.greet) {
            self.say_hello();
            self.settle(now);
        }
        if let Some(step) = self.todo.pop_front() {
            match step {
                Step::Apply { iteration, .. } => self.applied = iteration + 1,
                Step::Lead => self.office = Office::Taking,
                Step::Follow => self.office = Office::None,
                Step::Heal { .. } => self.healed += 1,
                _ => {}
            }
            return step;
        }
        if self.finished.is_none()
            && let Some((round, unit, message)) = self.worker.next(now, self.applied)
        {
            if let Some(message) = message {
                self.tell_head(message);
                self.settle(now);
            }
            return Step::Evaluate { round, unit };
        }
        self.leader_step()
    }

    /// The unit that will be evaluated after the one in work, if that is known already: its work may begin early.
    pub fn upcoming(&self) -> Option<(Round, UnitId)> {
        self.worker.upcoming()
    }

    /// The main thread is getting on with a step that takes long.
    pub fn alive(&mut self, now: f64) {
        self.worked = now;
    }

    /// The unit of the last [`Step::Evaluate`] has this outcome.
    pub fn evaluated(&mut self, now: f64, outcome: Outcome) {
        self.worked = now;
        let mut report_s = REPORT_SECONDS;
        if self.settings.unit_timeout_s > 0.0 {
            report_s = report_s.min(self.settings.unit_timeout_s / BEATS);
        }
        for message in self.worker.done(now, outcome, report_s) {
            self.tell_head(message);
        }
        self.settle(now);
    }

    /// The master weights have this digest after an iteration. All ranks say it after the same iterations.
    pub fn digest(&mut self, now: f64, iteration: u32, digest: u64) {
        let said = WeightsDigest {
            iteration,
            digest,
            healed: self.healed,
        };
        self.digest = Some(said);
        self.tell_head(Message::Digest(said));
        self.settle(now);
    }

    /// This rank was asked, by a signal say, to end the call soon: its leader is told, and so is the next one.
    pub fn halt(&mut self, now: f64) {
        if !std::mem::replace(&mut self.halting, true) {
            self.tell_head(Message::Halt);
            self.settle(now);
        }
    }

    /// This rank can't go on: it is told to all, and takes no more work.
    pub fn resign(&mut self, now: f64, reason: &str) {
        self.worker.forget();
        self.wait_for_nothing();
        let reason = reason.to_owned();
        for rank in self.others() {
            self.post(
                rank,
                &Message::Resign {
                    reason: reason.clone(),
                    led: self.office != Office::None,
                },
            );
        }
        self.lose(now, self.me, Loss::Resigned(reason));
        self.settle(now);
    }

    /// All ranks but this one.
    fn others(&self) -> Vec<RankId> {
        (0..self.ranks).filter(|&rank| rank != self.me).collect()
    }

    /// Handles messages to itself, and what needn't wait any more, until there is none; then the call may be over.
    fn settle(&mut self, now: f64) {
        loop {
            if let Some(message) = self.inbox.pop_front() {
                self.handle(now, self.me, message);
            } else if let Some(message) = self.next_behind() {
                self.obey(now, message);
            } else if !self.leave_if_over() {
                return;
            }
        }
    }

    fn tell_head(&mut self, message: Message) {
        if self.head == self.me {
            self.inbox.push_back(message);
        } else {
            self.post(self.head, &message);
        }
    }

    fn post(&mut self, to: RankId, message: &Message) {
        self.post_as(self.call, to, message);
    }

    fn post_as(&mut self, call: u32, to: RankId, message: &Message) {
        if to < self.ranks && to != self.me && !matches!(self.lost.get(&to), Some(Loss::Dead)) {
            let bytes = message.encode(call);
            self.sent += bytes.len() as u64;
            self.sends.push((to, bytes));
        }
    }
}
