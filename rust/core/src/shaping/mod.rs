//! Shaping: from the fitness of the members to their scores Z. One file per rule; [`ShapingRule`] is the registry.
//!
//! Knows nothing about members, pairs, learning rates or failures: it sees the plain finite fitness of the members
//! that count, in member order, and gives one score for each. All arithmetic is f64 in member order, so the scores
//! are the same bits everywhere.

mod centered_rank;
mod zscore;

use std::str::FromStr;

/// A way to turn fitness into scores. Equal fitness gives exactly zero scores under every rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapingRule {
    /// Z = (R - mean R) / (std R + 1e-8), population std (Qiu et al., arXiv 2509.24372).
    ZScore,
    /// Ranks scaled to [-0.5, 0.5], ties share the average rank (Salimans et al., arXiv 1703.03864).
    CenteredRank,
}

/// The name of a shaping rule that doesn't exist.
#[derive(Debug, thiserror::Error)]
#[error("`shaping` must be one of \"zscore\", \"centered_rank\", got \"{name}\"")]
pub struct UnknownShaping {
    /// The name that was given.
    pub name: String,
}

impl ShapingRule {
    /// Every rule, in the order of the documentation.
    pub const ALL: [Self; 2] = [Self::ZScore, Self::CenteredRank];

    /// The rule's name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::ZScore => "zscore",
            Self::CenteredRank => "centered_rank",
        }
    }

    /// One score per fitness value, in the same order. The values must be finite.
    pub fn scores(self, fitness: &[f64]) -> Vec<f64> {
        debug_assert!(fitness.iter().all(|value| value.is_finite()));
        if all_equal(fitness) {
            // Said here and not left to the arithmetic: the mean of three times 0.1 isn't 0.1.
            return vec![0.0; fitness.len()];
        }
        match self {
            Self::ZScore => zscore::scores(fitness),
            Self::CenteredRank => centered_rank::scores(fitness),
        }
    }
}

impl FromStr for ShapingRule {
    type Err = UnknownShaping;

    fn from_str(name: &str) -> Result<Self, UnknownShaping> {
        Self::ALL
            .into_iter()
            .find(|rule| rule.name() == name)
            .ok_or_else(|| UnknownShaping {
                name: name.to_owned(),
            })
    }
}

#[expect(
    clippy::float_cmp,
    reason = "equal fitness means equal values, not close ones"
)]
fn all_equal(fitness: &[f64]) -> bool {
    fitness.windows(2).all(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_unknown_ones_are_refused() {
        for rule in ShapingRule::ALL {
            assert_eq!(rule.name().parse::<ShapingRule>().unwrap(), rule);
        }
        let message = "rank".parse::<ShapingRule>().unwrap_err().to_string();
        assert!(message.contains("got \"rank\""), "{message}");
    }

    #[test]
    fn equal_fitness_gives_exactly_zero_under_every_rule() {
        for rule in ShapingRule::ALL {
            for value in [0.1, -0.3, 0.0, 1e300, f64::MAX, 5e-324] {
                for count in [0, 1, 2, 3, 7, 30] {
                    let scores = rule.scores(&vec![value; count]);
                    assert_eq!(
                        scores,
                        vec![0.0; count],
                        "{rule:?} of {count} times {value}"
                    );
                }
            }
        }
    }
}
