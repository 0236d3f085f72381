//! The fitness table of one iteration: one cell per (member, prompt), each filled exactly once.
//!
//! Knows nothing about rewards' origin, ranks or weights. Cells are indexed, so the order in which results arrive
//! never matters; sums run in prompt order. Rewards of a whole set of completions use a table with one prompt.

mod error;
mod policy;

pub use error::FitnessError;
pub use policy::FailurePolicy;

/// Rewards by member and prompt.
#[derive(Clone, Debug)]
pub struct FitnessTable {
    members: usize,
    prompts: usize,
    /// Row-major; NaN where `cells` says empty or failed.
    rewards: Vec<f64>,
    cells: Vec<Cell>,
    filled: usize,
    failures: usize,
}

impl FitnessTable {
    /// An empty table.
    ///
    /// # Errors
    /// If it has no member or no prompt, or can't be addressed.
    pub fn new(members: usize, prompts: usize) -> Result<Self, FitnessError> {
        if members == 0 || prompts == 0 {
            return Err(FitnessError::Empty { members, prompts });
        }
        let cells = members
            .checked_mul(prompts)
            .filter(|&cells| cells <= isize::MAX as usize / size_of::<f64>())
            .ok_or(FitnessError::TooLarge { members, prompts })?;
        Ok(Self {
            members,
            prompts,
            rewards: vec![f64::NAN; cells],
            cells: vec![Cell::Empty; cells],
            filled: 0,
            failures: 0,
        })
    }

    /// Fills one cell; `None`, NaN and infinities are failures.
    ///
    /// # Errors
    /// If the cell lies outside the table or was filled before.
    pub fn set(
        &mut self,
        member: usize,
        prompt: usize,
        reward: Option<f64>,
    ) -> Result<(), FitnessError> {
        let Self {
            members, prompts, ..
        } = *self;
        if member >= members || prompt >= prompts {
            return Err(FitnessError::Outside {
                member,
                prompt,
                members,
                prompts,
            });
        }
        let at = member * prompts + prompt;
        if self.cells[at] != Cell::Empty {
            return Err(FitnessError::Twice { member, prompt });
        }
        if let Some(reward) = reward.filter(|reward| reward.is_finite()) {
            self.rewards[at] = reward;
            self.cells[at] = Cell::Reward;
        } else {
            self.cells[at] = Cell::Failed;
            self.failures += 1;
        }
        self.filled += 1;
        Ok(())
    }

    /// Fills an empty table at once, row by row; NaN and infinities are failures.
    ///
    /// # Errors
    /// If the number of rewards isn't members x prompts, or a cell was filled before; nothing changes then.
    pub fn fill(&mut self, rewards: &[f64]) -> Result<(), FitnessError> {
        if rewards.len() != self.cells.len() {
            return Err(FitnessError::Length {
                expected: self.cells.len(),
                got: rewards.len(),
            });
        }
        if let Some(at) = self.cells.iter().position(|&cell| cell != Cell::Empty) {
            return Err(FitnessError::Twice {
                member: at / self.prompts,
                prompt: at % self.prompts,
            });
        }
        for (at, &reward) in rewards.iter().enumerate() {
            self.set(at / self.prompts, at % self.prompts, Some(reward))?;
        }
        Ok(())
    }

    /// Members, the rows.
    pub fn members(&self) -> usize {
        self.members
    }

    /// Prompts, the columns.
    pub fn prompts(&self) -> usize {
        self.prompts
    }

    /// Whether every cell is filled.
    pub fn complete(&self) -> bool {
        self.filled == self.cells.len()
    }

    /// Cells that failed.
    pub fn failures(&self) -> usize {
        self.failures
    }

    /// (members, prompts) row by row; NaN where a cell failed or is empty.
    pub fn rewards(&self) -> &[f64] {
        &self.rewards
    }

    /// Fitness of each member: the mean of its rewards over the prompts, in f64, summed in prompt order, after the
    /// policy. `None` for all members when no reward is left to average.
    ///
    /// # Errors
    /// If a cell is empty, or one failed and the policy is to raise.
    pub fn fitness(&self, policy: FailurePolicy) -> Result<Vec<Option<f64>>, FitnessError> {
        if !self.complete() {
            let (member, prompt) = self.first(Cell::Empty);
            let cells = self.cells.len();
            return Err(FitnessError::Incomplete {
                missing: cells - self.filled,
                cells,
                member,
                prompt,
            });
        }
        if self.failures == self.cells.len() && policy != FailurePolicy::Raise {
            return Ok(vec![None; self.members]);
        }
        match policy {
            FailurePolicy::Raise if self.failures > 0 => {
                let (member, prompt) = self.first(Cell::Failed);
                let (failures, cells) = (self.failures, self.cells.len());
                Err(FitnessError::Failed {
                    failures,
                    cells,
                    member,
                    prompt,
                })
            }
            FailurePolicy::Raise | FailurePolicy::Zero => Ok(self.means_with(0.0)),
            FailurePolicy::Worst => {
                Ok(self.means_with(self.rewards.iter().copied().fold(f64::INFINITY, f64::min)))
            }
            FailurePolicy::DropPrompt => Ok(self.means_of_whole_prompts()),
        }
    }

    fn means_with(&self, failed: f64) -> Vec<Option<f64>> {
        let or_failed = |reward: &f64| if reward.is_nan() { failed } else { *reward };
        self.rows()
            .map(|row| Some(mean(row.iter().map(or_failed))))
            .collect()
    }

    fn means_of_whole_prompts(&self) -> Vec<Option<f64>> {
        let mut whole = vec![true; self.prompts];
        for row in self.rows() {
            for (whole, reward) in whole.iter_mut().zip(row) {
                *whole &= !reward.is_nan();
            }
        }
        if !whole.contains(&true) {
            return vec![None; self.members];
        }
        let kept = |row: &[f64]| {
            mean(
                row.iter()
                    .zip(&whole)
                    .filter(|(_, whole)| **whole)
                    .map(|(reward, _)| *reward),
            )
        };
        self.rows().map(|row| Some(kept(row))).collect()
    }

    fn rows(&self) -> impl Iterator<Item = &[f64]> {
        self.rewards.chunks_exact(self.prompts)
    }

    fn first(&self, cell: Cell) -> (usize, usize) {
        let at = self
            .cells
            .iter()
            .position(|&other| other == cell)
            .expect("such a cell was counted");
        (at / self.prompts, at % self.prompts)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    Empty,
    Reward,
    Failed,
}

/// Mean of finite values in their order; finite even where the plain sum would overflow.
fn mean(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let count = values.clone().count() as f64;
    let sum: f64 = values.clone().fold(0.0, |sum, value| sum + value);
    if sum.is_finite() {
        return sum / count;
    }
    values
        .fold(0.0, |sum, value| sum + value / count)
        .clamp(f64::MIN, f64::MAX)
}
