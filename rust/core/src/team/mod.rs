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
//! - **The main thread of the leader**, from [`Step::Lead`] to [`Step::Follow`]: first [`Rank::set_welcome`] and
//!   [`Rank::restore`], then for each round [`Rank::begin`], [`Step::Complete`], [`Rank::take_table`] and [`Rank::publish`]; last [`Rank::finish`]. These do nothing
//!   if the rank no longer leads, since the main thread may not know it yet.
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
mod main_thread;
mod message;
mod open_round;
mod roster;
mod shared;
mod step;
mod takeover;
mod transitions;
mod trees;
mod wire;
mod work;

use std::collections::BTreeMap;

pub use crate::schedule::RankId;
pub use history::History;
pub use message::{
    Assignment, CallEnd, Hello, Message, Outcome, Piece, Published, Report, Round, WeightsDigest,
};
pub use open_round::Table;
pub use step::{Loss, Step};
pub use trees::Fan;
pub use wire::WireError;

use crate::schedule::{PolicyKind, UnitId};
use clocks::Clocks;
use ending::Ended;
use roster::Roster;
use shared::Shared;
use takeover::Takeover;
use transitions::{Follower, Role};
use work::WorkQueue;

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

/// How far the main thread is.
#[derive(Debug, Default)]
struct Progress {
    /// The number of records in the `Apply` steps of the main thread.
    applied: u32,
    /// The last digest of its weights.
    digest: Option<WeightsDigest>,
    /// The number of rebuilds of the weights that the main thread has begun.
    rebuilds: u32,
    /// Whether this rank was taken for lost: it sends a hello when the main thread asks for the next step.
    hello_is_due: bool,
}

/// One rank of a job.
#[derive(Debug)]
pub struct Rank {
    shared: Shared,
    role: Role,
    takeover: Takeover,
    work: WorkQueue,
    clocks: Clocks,
    progress: Progress,
    /// The end of this call according to a rank that left it, while this rank lacks records of the call.
    reported_end: Option<CallEnd>,
    /// Whether the leader ended this call with an error.
    stopped: bool,
    /// Whether this rank was asked to end this call soon.
    halting: bool,
    /// The call that ended last before this one, for ranks that missed its end.
    previous: Option<Ended>,
    /// Messages of the next call, which their senders have begun already: (sender, call, message).
    ahead: Vec<(RankId, u32, Message)>,
}

/// The start of calls, and read access to the state.
impl Rank {
    /// Rank `me` of a job. `identity` is a number for everything that must be the same on all ranks.
    pub fn new(me: RankId, ranks: u32, identity: u64, settings: Settings) -> Self {
        Self {
            shared: Shared {
                settings,
                identity,
                roster: Roster {
                    me,
                    ranks,
                    ..Roster::default()
                },
                ..Shared::default()
            },
            role: Role::Left(None),
            takeover: Takeover::default(),
            work: WorkQueue::default(),
            clocks: Clocks::default(),
            progress: Progress::default(),
            reported_end: None,
            stopped: false,
            halting: false,
            previous: None,
            ahead: Vec::new(),
        }
    }

    /// Changes to another run between two calls: other records, on other weights. All ranks do so between the same calls.
    pub fn renew(&mut self, identity: u64, settings: Settings) {
        let roster = &self.shared.roster;
        let fresh = Self::new(roster.me, roster.ranks, identity, settings);
        let old = std::mem::replace(self, fresh);
        self.shared.call = old.shared.call;
        self.shared.roster.lost = old.shared.roster.lost;
        self.shared.sends = old.shared.sends;
        self.shared.traffic = old.shared.traffic;
        self.previous = old.previous;
        self.ahead = old.ahead;
        if let Role::Left(ended) = old.role {
            self.role = Role::Left(ended);
        }
    }

    /// Begins the next collective call. All ranks make the same calls in the same order.
    ///
    /// `unable` is the reason if this rank can't take part. Then it sends no hello: others would check things in it that this
    /// rank has not computed, such as its identity.
    pub fn enter(&mut self, now: f64, unable: Option<&str>) {
        self.start_call(now);
        if let Some(reason) = unable {
            self.announce_failure(reason);
        }
        self.change_leader(now, self.shared.roster.lowest());
        self.settle(now);
        // The messages of ranks that began this call before this rank.
        for (from, call, message) in std::mem::take(&mut self.ahead) {
            self.dispatch(now, from, call, message);
        }
    }

    /// The rank that leads, as far as this one knows; none outside of calls, and if all ranks are lost.
    pub fn leader(&self) -> Option<RankId> {
        self.shared.roster.leader
    }

    /// Whether this rank leads.
    pub fn leads(&self) -> bool {
        matches!(self.role, Role::Leading(_))
    }

    /// Whether this rank knows that the call is over.
    pub fn over(&self) -> bool {
        self.shared.result.is_some() || self.reported_end.is_some() || self.stopped
    }

    /// Whether pieces of a record are on their way to this rank, and not late yet.
    pub fn expects(&self) -> bool {
        matches!(&self.role, Role::Following(follower) if follower.incoming.expects())
    }

    /// The lost ranks and why they are lost.
    pub fn losses(&self) -> &BTreeMap<RankId, Loss> {
        &self.shared.roster.lost
    }

    /// The records of this rank.
    pub fn history(&self) -> &History {
        &self.shared.history
    }

    /// Payload bytes (sent, received) so far.
    pub fn traffic(&self) -> (u64, u64) {
        self.shared.traffic
    }

    /// The unit that will be evaluated after the current one, if it is known: its work may begin early.
    pub fn upcoming(&self) -> Option<(Round, UnitId)> {
        self.work.upcoming()
    }

    fn start_call(&mut self, now: f64) {
        let following = Role::Following(Follower::default());
        if let Role::Left(Some(ended)) = std::mem::replace(&mut self.role, following) {
            self.previous = Some(ended);
        }
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
    }
}
