//! The fitness table of one iteration: the sums of each unit, each filled exactly once.
//!
//! Knows nothing about the source of rewards, about ranks or weights. Units are numbered, so the order in which results
//! arrive never matters. Sums run in prompt order within a unit, and in unit order over the units of a member. Rewards of a
//! whole set of completions use a table with one prompt.

mod error;
mod policy;
mod sums;

pub use error::FitnessError;
pub use policy::FailurePolicy;
pub use sums::unit_sums;

use crate::plan::Plan;
use sums::{MemberSums, smallest, total};

/// Sums by unit and member.
#[derive(Clone, Debug)]
pub struct FitnessTable {
    plan: Plan,
    policy: FailurePolicy,
    /// The sums of each unit's members.
    units: Vec<Option<Vec<MemberSums>>>,
}

impl FitnessTable {
    /// An empty table for the units of a plan.
    pub fn new(plan: Plan, policy: FailurePolicy) -> Self {
        Self {
            plan,
            policy,
            units: vec![None; plan.count()],
        }
    }

    /// Fills a unit with its [`unit_sums`].
    ///
    /// # Errors
    /// If the unit doesn't exist, was filled before, or can't have these sums.
    pub fn set(&mut self, index: usize, values: &[f64]) -> Result<(), FitnessError> {
        let units = self.plan.count();
        let unit = self.plan.unit(index);
        let unit = unit.ok_or(FitnessError::Outside { unit: index, units })?;
        if self.units[index].is_some() {
            return Err(FitnessError::Twice { unit: index });
        }
        let sums = MemberSums::read(values, unit.members.len(), unit.prompts.len(), self.policy);
        let refused = || FitnessError::Sums {
            unit: index,
            members: unit.members.clone(),
            prompts: unit.prompts.clone(),
            values: values.to_vec(),
            policy: self.policy.name(),
        };
        self.units[index] = Some(sums.ok_or_else(refused)?);
        Ok(())
    }

    /// Fills all units with their sums, in order. Ignores values behind those of the last unit.
    ///
    /// # Errors
    /// As [`FitnessTable::set`]; the units before the refused one are filled.
    pub fn fill(&mut self, values: &[Vec<f64>]) -> Result<(), FitnessError> {
        let mut units = values.iter().take(self.plan.count()).enumerate();
        units.try_for_each(|(unit, values)| self.set(unit, values))
    }

    /// Whether every unit is filled.
    pub fn complete(&self) -> bool {
        self.units.iter().all(Option::is_some)
    }

    /// Number of rewards that failed.
    pub fn failures(&self) -> u64 {
        let units = self.units.iter().flatten().flatten();
        units.map(|sums| sums.failed).sum()
    }

    /// Fitness of each member: the mean of its rewards over the prompts, in f64, after the policy. `None` for all members
    /// if no reward is left.
    ///
    /// # Errors
    /// If a unit is missing, or a reward failed under the policy `raise`.
    pub fn fitness(&self) -> Result<Vec<Option<f64>>, FitnessError> {
        if let Some(unit) = self.units.iter().position(Option::is_none) {
            return Err(FitnessError::Incomplete {
                missing: self.units.iter().filter(|unit| unit.is_none()).count(),
                units: self.units.len(),
                unit,
            });
        }
        let members = self.plan.members();
        let rewards = u64::from(members) * u64::from(self.plan.prompts());
        let failures = self.failures();
        if failures > 0 && self.policy == FailurePolicy::Raise {
            return Err(self.failed(failures, rewards));
        }
        if failures == rewards {
            return Ok(vec![None; members as usize]);
        }
        Ok(match self.policy {
            FailurePolicy::Raise | FailurePolicy::Zero => self.means_with(0.0),
            FailurePolicy::Worst => self.means_with(self.smallest()),
            FailurePolicy::DropPrompt => self.means_of_whole_prompts(),
        })
    }

    /// The error that names the first failed reward.
    fn failed(&self, failures: u64, rewards: u64) -> FitnessError {
        let failed = |member: &u32| self.sums_of(*member).position(|sums| sums.failed > 0);
        let first = (0..self.plan.members()).find_map(|member| Some((member, failed(&member)?)));
        let (member, chunk) = first.unwrap_or_default();
        let unit = self.plan.unit(self.plan.units_of(member).0.start + chunk);
        FitnessError::Failed {
            failures,
            rewards,
            member,
            prompts: unit.map(|unit| unit.prompts).unwrap_or_default(),
        }
    }

    /// The smallest reward of the table.
    fn smallest(&self) -> f64 {
        let sums = self.units.iter().flatten().flatten();
        smallest(sums.map(|sums| sums.smallest))
    }

    fn means_with(&self, failed: f64) -> Vec<Option<f64>> {
        let sum = |sums: &MemberSums| match sums.failed {
            0 => sums.sum,
            count => total([sums.sum, count as f64 * failed].into_iter()),
        };
        let mean = |member| total(self.sums_of(member).map(sum)) / f64::from(self.plan.prompts());
        (0..self.plan.members())
            .map(|member| Some(mean(member)))
            .collect()
    }

    fn means_of_whole_prompts(&self) -> Vec<Option<f64>> {
        let row = |member| -> Vec<f64> {
            let sums = self.sums_of(member);
            sums.flat_map(|sums| sums.rewards.iter().copied()).collect()
        };
        let rows: Vec<Vec<f64>> = (0..self.plan.members()).map(row).collect();
        let whole: Vec<usize> = (0..self.plan.prompts() as usize)
            .filter(|&prompt| rows.iter().all(|row| row[prompt].is_finite()))
            .collect();
        if whole.is_empty() {
            return vec![None; rows.len()];
        }
        let mean =
            |row: &Vec<f64>| total(whole.iter().map(|&prompt| row[prompt])) / whole.len() as f64;
        rows.iter().map(|row| Some(mean(row))).collect()
    }

    /// A member's sums, in the order of its units.
    fn sums_of(&self, member: u32) -> impl Iterator<Item = &MemberSums> {
        let (units, position) = self.plan.units_of(member);
        let units = self.units[units].iter().flatten();
        units.map(move |sums| &sums[position])
    }
}
