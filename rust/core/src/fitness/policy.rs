//! What a failed reward counts as, and the names of these policies in the options.

use std::str::FromStr;

use super::FitnessError;

/// What a failed reward counts as. A failure is a value with a policy, never a NaN that reaches a sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FailurePolicy {
    /// In the table: the cell counts as reward 0. For a whole member: its coefficient is exactly 0.
    Zero,
    /// In the table: the smallest reward of the table. For a whole member: the smallest fitness of the others.
    #[default]
    Worst,
    /// In the table: the prompt is dropped for all members. A whole member has no prompt to drop: as [`Self::Zero`].
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
