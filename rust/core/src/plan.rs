//! The plan: the units of work of an iteration. It depends on the options only, never on the ranks.
//!
//! A unit is a range of members and a range of prompts, evaluated as one batch. Knows nothing about ranks, rewards or
//! models.

use std::ops::Range;

/// Members and prompts that are evaluated together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Index in the plan.
    pub index: u32,
    /// Indices of the members.
    pub members: Range<u32>,
    /// Indices of the prompts.
    pub prompts: Range<u32>,
}

/// All units of an iteration, ordered by chunk of members, then by chunk of prompts. Only the last chunk may be smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    members: u32,
    prompts: u32,
    members_per_unit: u32,
    prompts_per_unit: u32,
    units: u32,
}

/// Why a plan can't be created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum PlanError {
    #[error("`{name}` must be at least 1, got 0")]
    Zero { name: &'static str },
    #[error("{members} member chunks x {prompts} prompt chunks must be at most 4294967295 units")]
    TooMany { members: u32, prompts: u32 },
}

impl Plan {
    /// The plan for `members` x `prompts`, in units of at most `members_per_unit` x `prompts_per_unit`.
    ///
    /// # Errors
    /// If an argument is 0, or the number of units is no u32.
    pub fn new(
        members: u32,
        prompts: u32,
        members_per_unit: u32,
        prompts_per_unit: u32,
    ) -> Result<Self, PlanError> {
        for (name, value) in [
            ("members", members),
            ("prompts", prompts),
            ("members_per_unit", members_per_unit),
            ("prompts_per_unit", prompts_per_unit),
        ] {
            if value == 0 {
                return Err(PlanError::Zero { name });
            }
        }
        let chunks = (
            members.div_ceil(members_per_unit),
            prompts.div_ceil(prompts_per_unit),
        );
        let units = chunks.0.checked_mul(chunks.1).ok_or(PlanError::TooMany {
            members: chunks.0,
            prompts: chunks.1,
        })?;
        Ok(Self {
            members,
            prompts,
            members_per_unit,
            prompts_per_unit,
            units,
        })
    }

    /// Number of members.
    pub fn members(&self) -> u32 {
        self.members
    }

    /// Number of prompts.
    pub fn prompts(&self) -> u32 {
        self.prompts
    }

    /// Number of units.
    pub fn count(&self) -> usize {
        self.units as usize
    }

    /// Number of prompt chunks, which is the number of units of a member.
    pub fn prompt_chunks(&self) -> u32 {
        self.prompts.div_ceil(self.prompts_per_unit)
    }

    /// The unit with this index; `None` outside the plan.
    pub fn unit(&self, index: usize) -> Option<Unit> {
        let index = u32::try_from(index)
            .ok()
            .filter(|&index| index < self.units)?;
        let chunks = self.prompt_chunks();
        let range = |chunk: u32, size: u32, all: u32| {
            let start = chunk * size;
            start..all.min(start.saturating_add(size))
        };
        Some(Unit {
            index,
            members: range(index / chunks, self.members_per_unit, self.members),
            prompts: range(index % chunks, self.prompts_per_unit, self.prompts),
        })
    }

    /// All units, in order.
    pub fn units(&self) -> impl Iterator<Item = Unit> + '_ {
        (0..self.count()).filter_map(|index| self.unit(index))
    }

    /// The units of a member, in the order of their prompts, and the position of the member within each unit.
    pub fn units_of(&self, member: u32) -> (Range<usize>, usize) {
        let chunks = self.prompt_chunks() as usize;
        let first = (member / self.members_per_unit) as usize * chunks;
        (
            first..first + chunks,
            (member % self.members_per_unit) as usize,
        )
    }
}
