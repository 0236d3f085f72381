//! The state that a rank has in every role: the other ranks, the records, and the messages to send.

use std::collections::{BTreeMap, VecDeque};

use super::history::History;
use super::message::{CallEnd, Message};
use super::roster::Roster;
use super::{Loss, RankId, Settings, Step};

#[derive(Debug, Default)]
pub(super) struct Shared {
    pub settings: Settings,
    /// A number for everything that must be the same on all ranks.
    pub identity: u64,
    /// The number of the current call, from 1.
    pub call: u32,
    pub roster: Roster,
    pub history: History,
    /// Units of cost per second of each rank, as measured in earlier rounds.
    pub speeds: BTreeMap<RankId, f64>,
    /// Instructions for the main thread.
    pub steps: VecDeque<Step>,
    /// The result of this call, once the leader announced it. Its last record is filled in when this rank leaves.
    pub result: Option<CallEnd>,
    /// Messages of this rank to itself.
    pub inbox: VecDeque<Message>,
    /// Messages to other ranks.
    pub sends: Vec<(RankId, Vec<u8>)>,
    /// Payload bytes (sent, received).
    pub traffic: (u64, u64),
}

impl Shared {
    pub fn me(&self) -> RankId {
        self.roster.me
    }

    /// Sends a message to another rank. Nothing is sent to dead ranks.
    pub fn post(&mut self, to: RankId, message: &Message) {
        self.post_in(self.call, to, message);
    }

    /// Sends a message that belongs to this call to another rank.
    pub fn post_in(&mut self, call: u32, to: RankId, message: &Message) {
        if to < self.roster.ranks && to != self.me() && !self.roster.is(to, &Loss::Dead) {
            let bytes = message.encode(call);
            self.traffic.0 += bytes.len() as u64;
            self.sends.push((to, bytes));
        }
    }

    pub fn post_all(&mut self, ranks: impl IntoIterator<Item = RankId>, message: &Message) {
        for rank in ranks {
            self.post(rank, message);
        }
    }

    /// Sends a message to a rank, which may be this one.
    pub fn send(&mut self, to: RankId, message: Message) {
        if to == self.me() {
            self.inbox.push_back(message);
        } else {
            self.post(to, &message);
        }
    }

    pub fn send_to_leader(&mut self, message: Message) {
        if let Some(leader) = self.roster.leader {
            self.send(leader, message);
        }
    }

    /// Appends a record. A result that was announced without it is void.
    pub fn learn(&mut self, payload: Vec<u8>) {
        let iteration = self.history.count();
        self.result = None;
        self.history.push(payload.clone());
        self.steps.push_back(Step::Apply { iteration, payload });
    }

    /// Lets the main thread take the journal over, unless it has yet to do so.
    pub fn take_over(&mut self) {
        if !self.steps.contains(&Step::Lead) {
            self.steps.push_back(Step::Lead);
        }
    }
}
