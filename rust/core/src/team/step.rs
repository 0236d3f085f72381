//! What the main thread of a rank is told.

use crate::schedule::UnitId;

use super::{RankId, Round};

/// Why a rank doesn't count any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Its process is gone.
    Dead,
    /// It said that it can't go on.
    Resigned(String),
    /// It didn't answer in time; it may come back.
    Silent,
}

/// What the main thread of a rank does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing yet.
    Wait,
    /// Evaluate this unit; then call [`Rank::evaluated`].
    Evaluate {
        /// The round it belongs to.
        round: Round,
        /// Its number in the round.
        unit: UnitId,
    },
    /// Journal this record unless it is there already, update the weights, apply it.
    Apply {
        /// Its iteration.
        iteration: u32,
        /// What the leader published.
        payload: Vec<u8>,
    },
    /// All living ranks have this digest: journal it.
    Agreed {
        /// The iteration.
        iteration: u32,
        /// The digest.
        digest: u64,
    },
    /// Make the weights anew from the base and the records, then call [`Rank::digest`] for the last iteration after which
    /// all ranks call it: this one, or one that was applied since.
    Heal {
        /// The iteration whose digest was wrong.
        iteration: u32,
    },
    /// What the leader tells those who come.
    Welcome {
        /// The leader's words.
        payload: Vec<u8>,
    },
    /// For the journal.
    Note {
        /// The leader's words.
        payload: Vec<u8>,
    },
    /// This rank leads from now on.
    Lead,
    /// This rank doesn't lead any more.
    Follow,
    /// Leader: the round's table is complete and may be used.
    Complete,
    /// Leader: a rank was asked to end the call soon.
    Halt,
    /// Leader: another rank knows later records; the open round is void.
    Superseded,
    /// Leader: a rank was lost.
    Lost {
        /// Which.
        rank: RankId,
        /// Why.
        loss: Loss,
    },
    /// Leader: a rank that was lost is back.
    Back {
        /// Which.
        rank: RankId,
    },
    /// Leader: a rank with another model, other data or other records wants to take part.
    Stranger {
        /// Which.
        rank: RankId,
        /// Whether it is its records that differ.
        records: bool,
    },
    /// Leader: two results of a unit differ.
    Differs {
        /// The unit.
        unit: UnitId,
        /// Whose result counted.
        first: RankId,
        /// Whose result differs.
        second: RankId,
    },
    /// Leader: these ranks' weights differ from the others', or, if `hopeless`, do so again.
    Diverged {
        /// Which.
        ranks: Vec<RankId>,
        /// After which iteration.
        iteration: u32,
        /// Whether making them anew didn't help.
        hopeless: bool,
    },
    /// The call is over.
    Finished {
        /// Its result.
        payload: Vec<u8>,
    },
    /// The call ends with an error.
    Stopped {
        /// The leader's words.
        payload: Vec<u8>,
    },
}
