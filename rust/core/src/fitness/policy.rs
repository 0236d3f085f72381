//! The policies for failed rewards, and their names in the options.

use std::str::FromStr;

use super::FitnessError;

/// The value of a failed reward. No NaN ever reaches a sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailurePolicy {
    /// A failed reward is 0. A failed member gets a Z of exactly 0.
    Zero,
    /// A failed reward is the smallest reward of the table. A failed member has the smallest fitness of the others.
    #[default]
    Worst,
    /// A prompt with a failed reward is dropped for all members. A failed member is treated as by [`Self::Zero`].
    DropPrompt,
    /// The iteration ends with an error.
    Raise,
}

impl FailurePolicy {
    /// Every policy, in the order of the documentation.
    pub const ALL: [Self; 4] = [Self::Zero, Self::Worst, Self::DropPrompt, Self::Raise];

    /// The names of all policies, for messages.
    pub(super) fn names() -> String {
        Self::ALL
            .map(|policy| format!("{:?}", policy.name()))
            .join(", ")
    }

    /// The policy's name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zero => "zero",
            Self::Worst => "worst",
            Self::DropPrompt => "drop_prompt",
            Self::Raise => "raise",
        }
    }
}

impl FromStr for FailurePolicy {
    type Err = FitnessError;

    fn from_str(name: &str) -> Result<Self, FitnessError> {
        let found = Self::ALL.into_iter().find(|policy| policy.name() == name);
        found.ok_or_else(|| FitnessError::UnknownPolicy {
            name: name.to_owned(),
        })
    }
}
