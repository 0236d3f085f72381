//! The dynamic policy: one queue for all ranks. The longest expected units come first, and units of lost ranks before them.

use std::collections::VecDeque;

use super::policy::Policy;
use super::{RankId, UnitId};

#[derive(Debug)]
pub(super) struct Dynamic {
    open: VecDeque<UnitId>,
}

impl Dynamic {
    pub(super) fn new(costs: &[f64]) -> Self {
        let mut open: Vec<UnitId> = (0..costs.len() as UnitId).collect();
        // A stable sort keeps units of equal cost in their order, so that a batch shares members.
        open.sort_by(|&a, &b| costs[b as usize].total_cmp(&costs[a as usize]));
        Self { open: open.into() }
    }
}

impl Policy for Dynamic {
    fn next(&mut self, _rank: RankId) -> Option<UnitId> {
        self.open.pop_front()
    }

    fn lost(&mut self, _rank: RankId, held: Vec<UnitId>) {
        for unit in held.into_iter().rev() {
            self.open.push_front(unit);
        }
    }

    fn joined(&mut self, _rank: RankId) {}

    fn all_at_once(&self) -> bool {
        false
    }
}
