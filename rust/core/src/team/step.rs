//! The instructions of a rank's machine to its main thread.

use crate::schedule::UnitId;

use super::{RankId, Round};

/// Why a rank counts as lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Its process ended.
    Dead,
    /// It failed, for this reason.
    Failed(String),
    /// It was silent, or busy with one unit, for too long. It may come back.
    Silent,
}

/// What the main thread of a rank does next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing to do yet.
    Wait,
    /// Evaluate this unit, then call [`super::Rank::evaluated`].
    Evaluate {
        /// The round of the unit.
        round: Round,
        /// Its index in the round.
        unit: UnitId,
    },
    /// Write this record to the journal unless it is there already, then update the weights by it.
    Apply {
        /// The iteration of the record.
        iteration: u32,
        /// The record as the leader published it.
        payload: Vec<u8>,
    },
    /// All ranks that take part have this digest: write it to the journal.
    Agreed {
        /// The iteration after which it was computed.
        iteration: u32,
        /// The digest.
        digest: u64,
    },
    /// Rebuild the weights from the base and the records, then call [`super::Rank::digest`] for the last iteration at which
    /// ranks compare digests: this iteration, or a later one that was applied in the meantime.
    Rebuild {
        /// The iteration whose digest was wrong.
        iteration: u32,
    },
    /// What the leader sends to every rank that takes part.
    Welcome {
        /// The leader's bytes.
        payload: Vec<u8>,
    },
    /// An entry for the journal of this host.
    Note {
        /// The leader's bytes.
        payload: Vec<u8>,
    },
    /// This rank leads from now on: take the journal over.
    Lead,
    /// This rank no longer leads.
    Follow,
    /// Leader: the table of the round is complete, see [`super::Leading::take_table`].
    Complete,
    /// Leader: a rank was asked to end the call soon.
    Halt,
    /// Leader: another rank knows later records, so the open round is void.
    Superseded,
    /// Leader: a rank was lost.
    Lost {
        /// The lost rank.
        rank: RankId,
        /// Why it counts as lost.
        loss: Loss,
    },
    /// Leader: a rank that counted as lost is back.
    Back {
        /// The rank.
        rank: RankId,
    },
    /// Leader: a rank with another model, other data or other records wants to take part.
    Stranger {
        /// The rank.
        rank: RankId,
        /// Whether its records differ.
        records: bool,
    },
    /// Leader: two results of a unit differ.
    Differs {
        /// The unit.
        unit: UnitId,
        /// The rank whose result counts.
        first: RankId,
        /// The rank whose result differs from it.
        second: RankId,
    },
    /// Leader: the weights of these ranks differ from the majority's.
    Diverged {
        /// The ranks.
        ranks: Vec<RankId>,
        /// The iteration after which digests were compared.
        iteration: u32,
        /// Whether they still differ after the ranks rebuilt them.
        hopeless: bool,
    },
    /// The call is over.
    Finished {
        /// The result of the call.
        payload: Vec<u8>,
    },
    /// The call ends with an error.
    Stopped {
        /// The leader's bytes; empty if this rank failed and no other rank is left.
        payload: Vec<u8>,
    },
}
