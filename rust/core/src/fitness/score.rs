//! What a unit's rewards come to: the few numbers of it that travel.
//!
//! ```text
//! zero, raise    sum                  or, if rewards failed   sum, how many failed
//! worst          sum, smallest        or, if rewards failed   sum, smallest, how many failed
//! drop_prompt    every reward, NaN where it failed
//! ```
//! The sum runs in prompt order over the rewards that didn't fail and stops at the largest f64; the smallest of none is
//! infinity.

use super::FailurePolicy;

/// The score of a unit's rewards. `None`, NaN and infinities are failures.
pub fn score(rewards: &[Option<f64>], policy: FailurePolicy) -> Vec<f64> {
    let good = |reward: &Option<f64>| reward.filter(|reward| reward.is_finite());
    if policy == FailurePolicy::DropPrompt {
        return rewards
            .iter()
            .map(|reward| good(reward).unwrap_or(f64::NAN))
            .collect();
    }
    let kept: Vec<f64> = rewards.iter().filter_map(good).collect();
    let failed = rewards.len() - kept.len();
    let mut values = vec![total(kept.iter().copied())];
    if policy == FailurePolicy::Worst {
        values.push(kept.iter().copied().fold(f64::INFINITY, f64::min));
    }
    if failed > 0 {
        values.push(failed as f64);
    }
    values
}

/// A score, read.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Score {
    /// Sum of the rewards that didn't fail.
    pub sum: f64,
    /// The smallest of them.
    pub smallest: f64,
    /// How many failed.
    pub failed: u64,
    /// All of them, if the policy looks at each.
    pub rewards: Vec<f64>,
}

impl Score {
    /// Reads the score of a unit of so many rewards; nothing if it is none.
    pub fn read(values: &[f64], rewards: usize, policy: FailurePolicy) -> Option<Self> {
        if policy == FailurePolicy::DropPrompt {
            let failed = values.iter().filter(|value| !value.is_finite()).count();
            return (values.len() == rewards).then(|| Self {
                sum: 0.0,
                smallest: f64::INFINITY,
                failed: failed as u64,
                rewards: values.to_vec(),
            });
        }
        let (fixed, counted) =
            values.split_at_checked(1 + usize::from(policy == FailurePolicy::Worst))?;
        let failed = match counted {
            [] => 0.0,
            [failed] if *failed >= 1.0 && *failed <= rewards as f64 && failed.fract() == 0.0 => {
                *failed
            }
            _ => return None,
        };
        let smallest = fixed.get(1).copied().unwrap_or(f64::INFINITY);
        let none = failed as u64 == rewards as u64;
        let sound = fixed[0].is_finite()
            && !smallest.is_nan()
            && (smallest.is_finite() || none || fixed.len() == 1);
        sound.then(|| Self {
            sum: fixed[0],
            smallest,
            failed: failed as u64,
            rewards: Vec::new(),
        })
    }
}

/// Sum of finite values in their order, which stays finite.
pub(super) fn total(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |sum: f64, value| {
        (sum + value).clamp(f64::MIN, f64::MAX)
    })
}
