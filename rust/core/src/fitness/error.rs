//! Why a table refuses.

/// Why a table can't be made, filled or read.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum FitnessError {
    #[error("a fitness table needs at least 1 member and 1 prompt, got {members} x {prompts}")]
    Empty { members: usize, prompts: usize },
    #[error(
        "a fitness table of {members} members x {prompts} prompts is larger than the memory can address"
    )]
    TooLarge { members: usize, prompts: usize },
    #[error(
        "cell (member {member}, prompt {prompt}) is outside the table of {members} members x {prompts} prompts"
    )]
    Outside {
        member: usize,
        prompt: usize,
        members: usize,
        prompts: usize,
    },
    #[error(
        "cell (member {member}, prompt {prompt}) was filled before; each cell is filled exactly once"
    )]
    Twice { member: usize, prompt: usize },
    #[error("expected {expected} rewards, one per cell, got {got}")]
    Length { expected: usize, got: usize },
    #[error(
        "{missing} of {cells} cells are empty, the first is (member {member}, prompt {prompt})"
    )]
    Incomplete {
        missing: usize,
        cells: usize,
        member: usize,
        prompt: usize,
    },
    #[error(
        "{failures} of {cells} rewards failed, the first is (member {member}, prompt {prompt}); `failure_policy` is \"raise\""
    )]
    Failed {
        failures: usize,
        cells: usize,
        member: usize,
        prompt: usize,
    },
    #[error(
        "`failure_policy` must be one of \"zero\", \"worst\", \"drop_prompt\", \"raise\", got \"{name}\""
    )]
    UnknownPolicy { name: String },
}
