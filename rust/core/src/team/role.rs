//! The role of a rank in a call, with the state that only this role needs.

use std::collections::BTreeMap;

use super::RankId;
use super::ending::Ended;
use super::incoming::Incoming;
use super::leader::Leader;
use super::message::Message;

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
