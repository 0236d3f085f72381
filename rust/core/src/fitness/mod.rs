//! The fitness table of one iteration: one score per unit, each told exactly once.
//!
//! Knows nothing about rewards' origin, ranks or weights. Units are numbered, so the order in which results arrive never
//! matters; sums run in prompt order within a unit and in unit order over a member's units. Rewards of a whole set of
//! completions use a table with one prompt.

mod error;
mod policy;
mod score;

pub use error::FitnessError;
pub use policy::FailurePolicy;
pub use score::score;

use crate::schedule::{Unit, plan_units};
use score::{Score, total};

/// Scores by unit.
#[derive(Clone, Debug)]
pub struct FitnessTable {
    units: Vec<Unit>,
    members: usize,
    prompts: usize,
    policy: FailurePolicy,
    scores: Vec<Option<Score>>,
    missing: usize,
}

impl FitnessTable {
    /// An empty table for the units of [`plan_units`].
    ///
    /// # Errors
    /// If there is no such plan.
    pub fn new(
        members: u32,
        prompts: u32,
        prompts_per_unit: u32,
        policy: FailurePolicy,
    ) -> Result<Self, FitnessError> {
        let units = plan_units(members, prompts, prompts_per_unit)?;
        Ok(Self {
            members: members as usize,
            prompts: prompts as usize,
            policy,
            scores: vec![None; units.len()],
            missing: units.len(),
            units,
        })
    }

    /// Takes a unit's [`score`].
    ///
    /// # Errors
    /// If there is no such unit, it was told before, or the values are no score.
    pub fn set(&mut self, unit: usize, values: &[f64]) -> Result<(), FitnessError> {
        let units = self.units.len();
        let slot = self
            .scores
            .get_mut(unit)
            .ok_or(FitnessError::Outside { unit, units })?;
        if slot.is_some() {
            return Err(FitnessError::Twice { unit });
        }
        let Unit {
            member,
            start,
            stop,
            ..
        } = self.units[unit];
        let score = Score::read(values, (stop - start) as usize, self.policy);
        *slot = Some(score.ok_or_else(|| FitnessError::Score {
            unit,
            member,
            start,
            stop,
            values: values.to_vec(),
            policy: self.policy.name(),
        })?);
        self.missing -= 1;
        Ok(())
    }

    /// Whether every unit was told.
    pub fn complete(&self) -> bool {
        self.missing == 0
    }

    /// Rewards that failed.
    pub fn failures(&self) -> u64 {
        self.scores.iter().flatten().map(|score| score.failed).sum()
    }

    /// Fitness of each member: the mean of its rewards over the prompts, in f64, after the policy. `None` for all members
    /// when no reward is left to average.
    ///
    /// # Errors
    /// If a unit is missing, or a reward failed and the policy is to raise.
    pub fn fitness(&self) -> Result<Vec<Option<f64>>, FitnessError> {
        if let Some(unit) = self.scores.iter().position(Option::is_none) {
            let (missing, units) = (self.missing, self.units.len());
            return Err(FitnessError::Incomplete {
                missing,
                units,
                unit,
            });
        }
        let (failures, rewards) = (self.failures(), (self.members * self.prompts) as u64);
        if failures > 0 && self.policy == FailurePolicy::Raise {
            let failed =
                |score: &Option<Score>| score.as_ref().is_some_and(|score| score.failed > 0);
            let first = self.scores.iter().position(failed).expect("it was counted");
            let Unit {
                member,
                start,
                stop,
                ..
            } = self.units[first];
            return Err(FitnessError::Failed {
                failures,
                rewards,
                member,
                start,
                stop,
            });
        }
        if failures == rewards {
            return Ok(vec![None; self.members]);
        }
        Ok(match self.policy {
            FailurePolicy::Raise | FailurePolicy::Zero => self.means_with(0.0),
            FailurePolicy::Worst => self.means_with(self.smallest()),
            FailurePolicy::DropPrompt => self.means_of_whole_prompts(),
        })
    }

    /// The smallest reward of the table.
    fn smallest(&self) -> f64 {
        let all = self.scores.iter().flatten();
        all.map(|score| score.smallest)
            .fold(f64::INFINITY, f64::min)
    }

    fn means_with(&self, failed: f64) -> Vec<Option<f64>> {
        let sum = |score: &Score| match score.failed {
            0 => score.sum,
            count => total([score.sum, count as f64 * failed].into_iter()),
        };
        let mean = |scores: Vec<&Score>| total(scores.into_iter().map(sum)) / self.prompts as f64;
        self.rows().map(|scores| Some(mean(scores))).collect()
    }

    fn means_of_whole_prompts(&self) -> Vec<Option<f64>> {
        let row = |scores: Vec<&Score>| -> Vec<f64> {
            scores
                .into_iter()
                .flat_map(|score| score.rewards.iter().copied())
                .collect()
        };
        let rows: Vec<Vec<f64>> = self.rows().map(row).collect();
        let whole: Vec<usize> = (0..self.prompts)
            .filter(|&prompt| rows.iter().all(|row| row[prompt].is_finite()))
            .collect();
        if whole.is_empty() {
            return vec![None; self.members];
        }
        let mean =
            |row: &Vec<f64>| total(whole.iter().map(|&prompt| row[prompt])) / whole.len() as f64;
        rows.iter().map(|row| Some(mean(row))).collect()
    }

    /// Each member's scores.
    fn rows(&self) -> impl Iterator<Item = Vec<&Score>> {
        let units = self.units.len() / self.members;
        self.scores
            .chunks_exact(units)
            .map(|scores| scores.iter().flatten().collect())
    }
}
