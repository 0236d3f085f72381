//! Shaping: from the fitness of the members to their shaped fitness Z.
//!
//! Knows nothing about members, pairs, learning rates or failures. A rule gets the finite fitness of the members that
//! count, in member order, and returns one Z for each. All arithmetic is f64 in member order, so Z has the same bits on
//! every machine.
//!
//! A new rule is one file with one function, and its line in [`RULES`].

mod centered_rank;
mod zscore;

use std::fmt;
use std::sync::Arc;

/// A shaping rule: fitness of the members that count -> their Z, in the same order. The values are finite and not all
/// equal.
pub type Rule = fn(&[f64]) -> Vec<f64>;

/// The rules of this crate by name, in the order of the documentation.
pub const RULES: &[(&str, Rule)] = &[
    ("zscore", zscore::shape),
    ("centered_rank", centered_rank::shape),
];

/// A rule from outside this crate. It returns the reason if it fails.
pub type CustomRule = dyn Fn(&[f64]) -> Result<Vec<f64>, String> + Send + Sync;

/// The way a run shapes its fitness. Equal fitness gives Z of exactly 0 under every rule.
#[derive(Clone)]
pub enum Shaping {
    /// One of [`RULES`]; Z has the same bits on every machine.
    Named(&'static str, Rule),
    /// A rule from outside this crate, with its name for messages.
    Custom(String, Arc<CustomRule>),
}

/// Why there is no Z.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "the messages are the documentation")]
pub enum ShapingError {
    #[error("`shaping` must be one of {}, got {name:?}", names())]
    Unknown { name: String },
    #[error("shaping rule {name:?} failed: {reason}")]
    Failed { name: String, reason: String },
    #[error(
        "shaping rule {name:?} must give one finite number per value: got {got:?} for {fitness:?}"
    )]
    Values {
        name: String,
        fitness: Vec<f64>,
        got: Vec<f64>,
    },
}

impl Shaping {
    /// The rule of a name.
    ///
    /// # Errors
    /// If [`RULES`] has no such name.
    pub fn named(name: &str) -> Result<Self, ShapingError> {
        let found = RULES.iter().find(|(known, _)| *known == name);
        let &(name, rule) = found.ok_or_else(|| ShapingError::Unknown {
            name: name.to_owned(),
        })?;
        Ok(Self::Named(name, rule))
    }

    /// Name of the rule in the options.
    pub fn name(&self) -> &str {
        match self {
            Self::Named(name, _) => name,
            Self::Custom(name, _) => name,
        }
    }

    /// Whether every machine computes the same bits from the same fitness.
    pub fn is_portable(&self) -> bool {
        matches!(self, Self::Named(..))
    }

    /// Z of each fitness value, in the same order. The values must be finite.
    ///
    /// # Errors
    /// If a custom rule fails, or gives another number of values or one that isn't finite.
    pub fn shape(&self, fitness: &[f64]) -> Result<Vec<f64>, ShapingError> {
        debug_assert!(fitness.iter().all(|value| value.is_finite()));
        if all_equal(fitness) {
            // A rule might not give exactly 0: the computed mean of 0.1, 0.1 and 0.1 isn't 0.1.
            return Ok(vec![0.0; fitness.len()]);
        }
        match self {
            Self::Named(_, rule) => Ok(rule(fitness)),
            Self::Custom(name, rule) => {
                let name = name.clone();
                match rule(fitness) {
                    Err(reason) => Err(ShapingError::Failed { name, reason }),
                    Ok(z) if z.len() == fitness.len() && z.iter().all(|z| z.is_finite()) => Ok(z),
                    Ok(got) => Err(ShapingError::Values {
                        name,
                        fitness: fitness.to_vec(),
                        got,
                    }),
                }
            }
        }
    }
}

impl Default for Shaping {
    fn default() -> Self {
        let (name, rule) = RULES[0];
        Self::Named(name, rule)
    }
}

impl fmt::Debug for Shaping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shaping({:?})", self.name())
    }
}

fn names() -> String {
    let names: Vec<_> = RULES.iter().map(|(name, _)| format!("{name:?}")).collect();
    names.join(", ")
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
    fn every_rule_is_found_by_its_name_and_others_are_refused() {
        for (name, _) in RULES {
            assert_eq!(Shaping::named(name).unwrap().name(), *name);
        }
        let message = Shaping::named("rank").unwrap_err().to_string();
        assert_eq!(
            message,
            r#"`shaping` must be one of "zscore", "centered_rank", got "rank""#
        );
    }

    #[test]
    fn equal_fitness_gives_exactly_zero_under_every_rule() {
        let custom = Shaping::Custom(
            "one".into(),
            Arc::new(|fitness| Ok(vec![1.0; fitness.len()])),
        );
        let named = RULES.iter().map(|(name, rule)| Shaping::Named(name, *rule));
        for rule in named.chain([custom]) {
            for value in [0.1, -0.3, 0.0, 1e300, f64::MAX, 5e-324] {
                for count in [0, 1, 2, 3, 7, 30] {
                    let shaped = rule.shape(&vec![value; count]).unwrap();
                    assert_eq!(
                        shaped,
                        vec![0.0; count],
                        "{rule:?} of {count} times {value}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_custom_rule_that_fails_or_gives_other_values_is_refused() {
        let shape = |rule: Arc<CustomRule>| Shaping::Custom("mine".into(), rule).shape(&[1.0, 2.0]);
        assert_eq!(
            shape(Arc::new(|_| Ok(vec![-1.0, 1.0]))),
            Ok(vec![-1.0, 1.0])
        );
        let failed = shape(Arc::new(|_| Err("no luck".into()))).unwrap_err();
        assert_eq!(failed.to_string(), r#"shaping rule "mine" failed: no luck"#);
        for got in [vec![1.0], vec![1.0, f64::NAN]] {
            let other = shape(Arc::new(move |_| Ok(got.clone()))).unwrap_err();
            assert!(matches!(other, ShapingError::Values { .. }), "{other}");
        }
    }
}
