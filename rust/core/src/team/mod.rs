//! The ranks of a job as a team: one leads, all evaluate, and any of them may be lost at any moment. A state machine without
//! I/O: messages and losses go in, messages and instructions come out, time is an argument. So whole jobs are simulated in
//! tests.
//!
//! Methods, by caller:
//!
//! - **Calls**: [`Rank::renew`] between two calls for another run; [`Rank::enter`] to begin one.
//! - **What comes in**: [`Rank::handle_message`], [`Rank::handle_loss`], and [`Rank::handle_tick`] a few times a second.
//! - **What goes out**: [`Rank::poll_sends`] after each other method, in particular after those above.
//! - **The main thread**: [`Rank::poll_step`] in a loop, until it returns [`Step::Finished`] or [`Step::Stopped`]. It carries
//!   out each step before it asks for the next one, and reports by [`Rank::evaluated`], [`Rank::digest`], [`Rank::halt`] and
//!   [`Rank::resign`].
//! - **The main thread of the leader**, from [`Step::Lead`] to [`Step::Follow`], by [`Rank::leading`]: first
//!   [`Leading::set_welcome`] and [`Leading::restore`], then for each round [`Leading::begin`], [`Step::Complete`],
//!   [`Leading::take_table`] and [`Leading::publish`]; last [`Leading::finish`]. These do nothing if the rank no longer
//!   leads, since the main thread may not know it yet.
//!
//! The leader is the lowest rank that is not lost. It deals out units, fills the table, and publishes records. Every rank
//! keeps all records (they are small), so whoever becomes leader continues from those it has. Results are functions of
//! (round, unit) alone, so it never matters which leader asked for them. `docs/coordination.md` has the states and messages.

mod clocks;
mod digests;
mod ending;
mod history;
mod inbound;
mod incoming;
mod leader;
mod leading;
mod main_thread;
mod message;
mod open_round;
mod roster;
mod shared;
mod state;
mod step;
mod takeover;
mod trees;
mod wire;
mod work;

use std::cmp::Ordering;
use std::collections::BTreeMap;

pub use crate::schedule::RankId;
pub use history::History;
pub use leading::Leading;
pub use message::{
    Assignment, CallEnd, Hello, Message, Outcome, Piece, Published, Report, Round, WeightsDigest,
};
pub use open_round::Table;
pub use step::{Loss, Step};
pub use trees::Fan;
pub use wire::WireError;

use crate::schedule::{PolicyKind, UnitId};
use ending::Ended;
use roster::Roster;
use shared::Shared;
use state::{Role, State};

/// How the team works. The same on all ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Settings {
    /// How units are dealt out.
    pub policy: PolicyKind,
    /// A rank counts as lost if it needs longer for one unit, or is silent for longer, in seconds; 0: never.
    pub unit_timeout_s: f64,
    /// How records are passed on.
    pub fan: Fan,
}

/// One rank of a job.
#[derive(Debug)]
pub struct Rank {
    state: State,
    /// The call that ended last before this one, for ranks that missed its end.
    previous: Option<Ended>,
    /// Messages of the next call, which their senders have begun already: (sender, call, message).
    ahead: Vec<(RankId, u32, Message)>,
}

/// The start of calls, and read access to the state.
impl Rank {
    /// Rank `me` of a job. `identity` is a number for everything that must be the same on all ranks.
    pub fn new(me: RankId, ranks: u32, identity: u64, settings: Settings) -> Self {
        let roster = Roster {
            me,
            ranks,
            ..Roster::default()
        };
        let shared = Shared {
            settings,
            identity,
            roster,
            ..Shared::default()
        };
        Self {
            state: State::new(shared),
            previous: None,
            ahead: Vec::new(),
        }
    }

    /// Changes to another run between two calls: other records, on other weights. All ranks do so between the same calls.
    pub fn renew(&mut self, identity: u64, settings: Settings) {
        let roster = &self.state.shared.roster;
        let fresh = Self::new(roster.me, roster.ranks, identity, settings);
        let old = std::mem::replace(&mut self.state, fresh.state);
        let shared = &mut self.state.shared;
        shared.call = old.shared.call;
        shared.roster.lost = old.shared.roster.lost;
        shared.sends = old.shared.sends;
        shared.traffic = old.shared.traffic;
        if let Role::Left(ended) = old.role {
            self.state.role = Role::Left(ended);
        }
    }

    /// Begins the next collective call. All ranks make the same calls in the same order.
    ///
    /// `unable` is the reason if this rank can't take part. Then it sends no hello: others would check things in it that this
    /// rank has not computed, such as its identity.
    pub fn enter(&mut self, now: f64, unable: Option<&str>) {
        if let Some(ended) = self.state.start_call(now) {
            self.previous = Some(ended);
        }
        if let Some(reason) = unable {
            self.state.announce_failure(reason);
        }
        let lowest = self.state.shared.roster.lowest();
        self.state.change_leader(now, lowest);
        self.state.settle(now);
        // The messages of ranks that began this call before this rank.
        for (from, call, message) in std::mem::take(&mut self.ahead) {
            self.dispatch(now, from, call, message);
        }
    }

    /// The rank that leads, as far as this one knows; none outside of calls, and if all ranks are lost.
    pub fn leader(&self) -> Option<RankId> {
        self.state.shared.roster.leader
    }

    /// Whether this rank leads.
    pub fn leads(&self) -> bool {
        self.state.leads()
    }

    /// Whether this rank knows that the call is over.
    pub fn over(&self) -> bool {
        self.state.shared.result.is_some()
            || self.state.reported_end.is_some()
            || self.state.stopped
    }

    /// Whether pieces of a record are on their way to this rank, and not late yet.
    pub fn expects(&self) -> bool {
        matches!(&self.state.role, Role::Following(follower) if follower.incoming.expects())
    }

    /// The lost ranks and why they are lost.
    pub fn losses(&self) -> &BTreeMap<RankId, Loss> {
        &self.state.shared.roster.lost
    }

    /// The records of this rank.
    pub fn history(&self) -> &History {
        &self.state.shared.history
    }

    /// Payload bytes (sent, received) so far.
    pub fn traffic(&self) -> (u64, u64) {
        self.state.shared.traffic
    }

    /// The unit that will be evaluated after the current one, if it is known: its work may begin early.
    pub fn upcoming(&self) -> Option<(Round, UnitId)> {
        self.state.work.upcoming()
    }
}

/// Incoming messages and losses, and outgoing messages.
impl Rank {
    /// A message arrived.
    ///
    /// # Errors
    /// If it is not a message; nothing changes.
    pub fn handle_message(
        &mut self,
        now: f64,
        from: RankId,
        bytes: &[u8],
    ) -> Result<(), WireError> {
        let (call, message) = Message::decode(bytes)?;
        self.state.shared.traffic.1 += bytes.len() as u64;
        self.dispatch(now, from, call, message);
        Ok(())
    }

    /// The process of another rank ended.
    pub fn handle_loss(&mut self, now: f64, rank: RankId) {
        if rank != self.state.shared.me() {
            self.state.lose(now, rank, Loss::Dead);
            self.state.settle(now);
        }
    }

    /// Time passed. To be called a few times a second.
    pub fn handle_tick(&mut self, now: f64) {
        let state = &mut self.state;
        if let Role::Left(_) = state.role {
            return;
        }
        let limit_s = state.shared.settings.unit_timeout_s;
        let slept = state.clocks.tick(now, limit_s);
        if let (true, Role::Leading(leader)) = (slept, &mut state.role) {
            leader.forgive(now);
        }
        if state.clocks.beat_is_due(now, limit_s) {
            let all = state.shared.roster.others();
            let leader = state.shared.roster.leader.into_iter().collect();
            let ranks = if state.leads() { all } else { leader };
            state.send_beat(now, ranks);
        }
        if let Role::Leading(leader) = &mut state.role {
            let (late, hangs) = leader.handle_tick(now, &mut state.shared);
            state.progress.hello_is_due |= hangs;
            for rank in late {
                state.lose(now, rank, Loss::Silent);
            }
        } else if let Some(leader) = state.shared.roster.leader
            && state.clocks.leader_is_silent(now, limit_s)
        {
            state.lose(now, leader, Loss::Silent);
        }
        if let Role::Following(follower) = &mut state.role {
            follower.incoming.handle_tick(now, &mut state.shared);
        }
        state.settle(now);
    }

    /// Messages to be sent, (receiver, bytes), in order.
    pub fn poll_sends(&mut self) -> Vec<(RankId, Vec<u8>)> {
        std::mem::take(&mut self.state.shared.sends)
    }

    /// Handles a message of this call, and sorts out those of others.
    fn dispatch(&mut self, now: f64, from: RankId, call: u32, message: Message) {
        let state = &mut self.state;
        match (call.cmp(&state.shared.call), &state.role) {
            (Ordering::Less, _) | (Ordering::Equal, Role::Left(_)) => {
                self.answer(now, call, from, message);
            }
            (Ordering::Equal, _) if state.shared.roster.is(from, &Loss::Dead) => {}
            (Ordering::Equal, _) => state.handle(now, from, message),
            (Ordering::Greater, role) => {
                // The call is over for the sender, which answers a hello by how it ended.
                if state.shared.roster.resigned() {
                    state.end(CallEnd::default());
                } else if !matches!(role, Role::Left(_)) {
                    let hello = Message::Hello(state.hello());
                    state.shared.post(from, &hello);
                    state.part(now, from);
                }
                self.ahead.push((from, call, message));
            }
        }
        self.state.settle(now);
    }

    /// Answers a rank that is still in a call which this rank has left. A rank that failed may lack records, so it does not.
    fn answer(&mut self, now: f64, call: u32, from: RankId, message: Message) {
        if let Message::Resign { reason, .. } = message {
            return self.state.lose(now, from, Loss::Failed(reason));
        }
        let ended = match &self.state.role {
            Role::Left(Some(ended)) if ended.call == call => Some(ended),
            _ => self.previous.as_ref().filter(|ended| ended.call == call),
        };
        let ended = ended.filter(|_| !self.state.shared.roster.resigned());
        if let Some(answer) = ended.and_then(|ended| ended.answer(&message)) {
            self.state.shared.post_in(call, from, &answer);
        }
    }
}
