//! The ranks that take part under a leader, and the records that the leader has sent to each of them.

use std::collections::{BTreeMap, BTreeSet};

use crate::team::incoming::broadcast;
use crate::team::message::{Hello, Message};
use crate::team::shared::Shared;
use crate::team::{Loss, RankId, Step};

#[derive(Debug, Default)]
pub(in crate::team) struct Greeting {
    /// Ranks that sent a hello to this leader and have not been lost since.
    pub greeted: BTreeSet<RankId>,
    /// The hellos of ranks that have later records than this leader, which has asked for them.
    pub ahead: BTreeMap<RankId, Hello>,
    /// The number of records that this leader has sent whole to each rank since its hello. Links lose nothing.
    sent: BTreeMap<RankId, u32>,
    /// The number of records that this leader has published to all greeted ranks.
    published: u32,
    welcome: Option<Vec<u8>>,
}

impl Greeting {
    /// A greeting of ranks that all have this number of records.
    pub fn new(published: u32) -> Self {
        Self {
            published,
            ..Self::default()
        }
    }

    /// Checks a hello. Returns whether its rank can take part: it has the same identity and a prefix of this leader's
    /// records. A rank with later records waits until this leader has them too.
    pub fn admit(&mut self, shared: &mut Shared, from: RankId, hello: &Hello) -> bool {
        let mine = shared.history.count();
        let known = shared.history.checksum(hello.have.min(mine));
        let records = hello.have <= mine && known != Some(hello.history);
        if hello.identity != shared.identity || records {
            let rank = from;
            shared.steps.push_back(Step::Stranger { rank, records });
            return false;
        }
        if hello.have > mine {
            self.ahead.insert(from, hello.clone());
            shared.post(from, &Message::Fetch { first: mine });
        }
        hello.have <= mine
    }

    /// Asks a rank for a hello unless this leader has one. The rank may have sent its hello before this rank led, so that it
    /// was dropped.
    pub fn invite(&self, shared: &mut Shared, rank: RankId) {
        if !self.greeted.contains(&rank) && !self.ahead.contains_key(&rank) {
            shared.post(rank, &Message::Evict);
        }
    }

    /// A rank takes no part any more.
    pub fn remove(&mut self, rank: RankId) {
        self.greeted.remove(&rank);
        self.sent.remove(&rank);
        self.ahead.remove(&rank);
    }

    /// Sends a rank that has `have` records the welcome and the records that it lacks. Records that were sent to the rank
    /// before its hello may be lost, so they are sent again.
    pub fn introduce(&mut self, shared: &mut Shared, rank: RankId, have: u32) {
        if let Some(payload) = self.welcome.clone() {
            shared.post(rank, &Message::Welcome { payload });
        }
        self.sent.remove(&rank);
        self.send_records(shared, rank, have);
    }

    /// Sends a rank the records from `first` on, except those that were already sent to it whole.
    pub fn send_records(&mut self, shared: &mut Shared, rank: RankId, first: u32) {
        let have = shared.history.count();
        let sent = self.sent.insert(rank, have).unwrap_or(0);
        let first = first.max(sent);
        for (iteration, payload) in (first..).zip(shared.history.since(first).to_vec()) {
            shared.post(rank, &Message::Record { iteration, payload });
        }
    }

    /// Publishes the records that were not published yet. Ranks that have them ignore them.
    pub fn publish_records(&mut self, shared: &mut Shared) {
        let have = shared.history.count();
        let first = std::mem::replace(&mut self.published, have);
        let ranks = self.others(shared);
        for iteration in first..have {
            broadcast(shared, iteration, &ranks);
        }
    }

    /// Sends the welcome to the ranks that take part, and to each rank that comes later.
    pub fn set_welcome(&mut self, shared: &mut Shared, payload: Vec<u8>) {
        let message = Message::Welcome {
            payload: payload.clone(),
        };
        shared.post_all(self.others(shared), &message);
        self.welcome = Some(payload);
    }

    /// The ranks that take part, with their speeds (0: unknown).
    pub fn speeds(&self, shared: &Shared) -> Vec<(RankId, f64)> {
        let speed = |rank| shared.speeds.get(rank).copied().unwrap_or(0.0);
        let greeted = self.greeted.iter();
        greeted.map(|rank| (*rank, speed(rank))).collect()
    }

    /// The ranks that take part, without the leader.
    pub fn others(&self, shared: &Shared) -> Vec<RankId> {
        let greeted = self.greeted.iter().copied();
        greeted.filter(|&rank| rank != shared.me()).collect()
    }

    /// The ranks that take part, and those that failed and wait for the end of the call.
    pub fn listeners(&self, shared: &Shared) -> Vec<RankId> {
        let mut ranks = self.others(shared);
        let failed = |lost: &(&RankId, &Loss)| matches!(lost.1, Loss::Failed(_));
        let failed = shared.roster.lost.iter().filter(failed);
        ranks.extend(failed.map(|lost| *lost.0));
        ranks
    }
}
