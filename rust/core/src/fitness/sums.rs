//! The sums of a unit: the numbers of its rewards that ranks send.
//!
//! ```text
//! zero, raise    sum of each member             then, if a reward failed, the number of failures of each member
//! worst          ..., smallest of each member   then, if a reward failed, the number of failures of each member
//! drop_prompt    every reward, member by member, NaN where it failed
//! ```
//! A sum runs in prompt order over the rewards that didn't fail, and is clamped to the finite numbers. The smallest reward
//! of a member without rewards is infinity.

use super::FailurePolicy;

/// The sums of a unit's rewards, given member by member. `None`, NaN and infinities are failed rewards.
pub fn unit_sums(rewards: &[Option<f64>], members: usize, policy: FailurePolicy) -> Vec<f64> {
    let good = |reward: &Option<f64>| reward.filter(|reward| reward.is_finite());
    if policy == FailurePolicy::DropPrompt {
        let cell = |reward| good(reward).unwrap_or(f64::NAN);
        return rewards.iter().map(cell).collect();
    }
    let prompts = (rewards.len() / members.max(1)).max(1);
    let kept: Vec<Vec<f64>> = rewards
        .chunks(prompts)
        .map(|row| row.iter().filter_map(good).collect())
        .collect();
    let mut values: Vec<f64> = kept.iter().map(|row| total(row.iter().copied())).collect();
    if policy == FailurePolicy::Worst {
        values.extend(kept.iter().map(|row| smallest(row.iter().copied())));
    }
    if kept.iter().map(Vec::len).sum::<usize>() < rewards.len() {
        values.extend(kept.iter().map(|row| (prompts - row.len()) as f64));
    }
    values
}

/// The sums of one member in one unit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct MemberSums {
    /// Sum of the rewards that didn't fail.
    pub sum: f64,
    /// The smallest of them.
    pub smallest: f64,
    /// Number of rewards that failed.
    pub failed: u64,
    /// All rewards, under the policy `drop_prompt` only.
    pub rewards: Vec<f64>,
}

impl MemberSums {
    /// Reads [`unit_sums`] of `members` x `prompts` rewards; `None` if the values can't be such sums.
    pub fn read(
        values: &[f64],
        members: usize,
        prompts: usize,
        policy: FailurePolicy,
    ) -> Option<Vec<Self>> {
        if policy == FailurePolicy::DropPrompt {
            let rows = (values.len() == members * prompts).then(|| values.chunks(prompts))?;
            return Some(rows.map(Self::of_rewards).collect());
        }
        let (sums, rest) = values.split_at_checked(members)?;
        let (least, counts) = match policy {
            FailurePolicy::Worst => rest.split_at_checked(members)?,
            _ => (&[][..], rest),
        };
        if !counts.is_empty()
            && (counts.len() != members || counts.iter().all(|&count| count <= 0.0))
        {
            return None;
        }
        let member = |index: usize| {
            let failed = counts.get(index).copied().unwrap_or(0.0);
            let smallest = least.get(index).copied().unwrap_or(f64::INFINITY);
            let none_left = failed >= prompts as f64;
            let is_count = (0.0..=prompts as f64).contains(&failed) && failed.fract() == 0.0;
            let is_smallest = least.is_empty() || smallest.is_finite() || none_left;
            (sums[index].is_finite() && is_count && is_smallest && !smallest.is_nan()).then(|| {
                Self {
                    sum: sums[index],
                    smallest,
                    failed: failed as u64,
                    rewards: Vec::new(),
                }
            })
        };
        (0..members).map(member).collect()
    }

    fn of_rewards(rewards: &[f64]) -> Self {
        Self {
            sum: 0.0,
            smallest: f64::INFINITY,
            failed: rewards.iter().filter(|value| !value.is_finite()).count() as u64,
            rewards: rewards.to_vec(),
        }
    }
}

/// Sum of finite values in their order, clamped to the finite numbers.
pub(super) fn total(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |sum: f64, value| {
        (sum + value).clamp(f64::MIN, f64::MAX)
    })
}

/// The smallest value; infinity if there is none.
pub(super) fn smallest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::INFINITY, f64::min)
}
