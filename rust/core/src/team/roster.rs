//! Which ranks take part in a call, and which of them leads.

use std::collections::{BTreeMap, BTreeSet};

use super::{Loss, RankId};

/// What a rank knows about the ranks of its job.
#[derive(Debug, Default)]
pub(super) struct Roster {
    pub me: RankId,
    pub ranks: u32,
    /// Lost ranks, also those of earlier calls.
    pub lost: BTreeMap<RankId, Loss>,
    /// Ranks that have left this call.
    pub left: BTreeSet<RankId>,
    /// The leader of this call as far as this rank knows; none while all ranks are lost or have left.
    pub leader: Option<RankId>,
}

impl Roster {
    /// The lowest rank that takes part, which must lead.
    pub fn lowest(&self) -> Option<RankId> {
        (0..self.ranks).find(|rank| self.takes_part(*rank))
    }

    /// The ranks that take part.
    pub fn present(&self) -> BTreeSet<RankId> {
        (0..self.ranks)
            .filter(|rank| self.takes_part(*rank))
            .collect()
    }

    /// All ranks but this one.
    pub fn others(&self) -> Vec<RankId> {
        (0..self.ranks).filter(|&rank| rank != self.me).collect()
    }

    /// Whether this rank itself failed.
    pub fn resigned(&self) -> bool {
        self.lost.contains_key(&self.me)
    }

    pub fn is(&self, rank: RankId, loss: &Loss) -> bool {
        self.lost.get(&rank) == Some(loss)
    }

    /// Notes that a rank is lost. Returns false if that changes nothing: the worse reason stays, in the order dead, resigned,
    /// silent.
    pub fn lose(&mut self, rank: RankId, loss: &Loss) -> bool {
        let changes = match (self.lost.get(&rank), loss) {
            (None, _) => true,
            (Some(Loss::Silent), loss) => *loss != Loss::Silent,
            (Some(before), loss) => *loss == Loss::Dead && *before != Loss::Dead,
        };
        let changes = changes && rank < self.ranks;
        if changes {
            self.lost.insert(rank, loss.clone());
        }
        changes
    }

    fn takes_part(&self, rank: RankId) -> bool {
        !self.lost.contains_key(&rank) && !self.left.contains(&rank)
    }
}
