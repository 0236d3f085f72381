//! The fitness table.

use std::sync::{Mutex, MutexGuard, PoisonError};

use es_core::fitness::{FailurePolicy, FitnessError, FitnessTable as Core};
use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray2, PyReadonlyArray2};
use pyo3::prelude::*;

use crate::door::{CoreError, raise, to_python};

/// Adds this file's class to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<FitnessTable>()
}

/// One cell per (member, prompt), each filled exactly once; None is a failure.
#[pyclass(frozen, module = "es_llm._core")]
pub struct FitnessTable(Mutex<Core>);

#[pymethods]
impl FitnessTable {
    #[new]
    fn new(py: Python<'_>, members: usize, prompts: usize) -> PyResult<Self> {
        let core = Core::new(members, prompts).map_err(|error| to_python(py, &error))?;
        Ok(Self(Mutex::new(core)))
    }

    /// Fills one cell; None, NaN and infinities are failures.
    fn set(
        &self,
        py: Python<'_>,
        member: usize,
        prompt: usize,
        reward: Option<f64>,
    ) -> PyResult<()> {
        self.core()
            .set(member, prompt, reward)
            .map_err(|error| to_python(py, &error))
    }

    /// Fills an empty table at once; NaN and infinities are failures.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "a numpy view is taken by value"
    )]
    fn fill(&self, py: Python<'_>, rewards: PyReadonlyArray2<'_, f64>) -> PyResult<()> {
        let rewards = rewards.as_array();
        let (shape, mut core) = (rewards.dim(), self.core());
        if shape != (core.members(), core.prompts()) {
            let expected = (core.members(), core.prompts());
            let message = format!(
                "`rewards` must have shape (members, prompts) = {expected:?}, got {shape:?}"
            );
            return Err(raise(py, "PopulationError", &message));
        }
        let row_by_row: Vec<f64> = rewards.iter().copied().collect();
        core.fill(&row_by_row)
            .map_err(|error| to_python(py, &error))
    }

    #[getter]
    fn complete(&self) -> bool {
        self.core().complete()
    }

    #[getter]
    fn failures(&self) -> usize {
        self.core().failures()
    }

    /// Mean reward per member in f64, in prompt order, after the policy.
    fn fitness(&self, py: Python<'_>, failure_policy: &str) -> PyResult<Vec<Option<f64>>> {
        let policy: FailurePolicy = failure_policy
            .parse()
            .map_err(|error| to_python(py, &error))?;
        self.core()
            .fitness(policy)
            .map_err(|error| to_python(py, &error))
    }

    /// (members, prompts); NaN where a cell failed or is empty.
    fn rewards<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray2<f64>> {
        let core = self.core();
        let shape = (core.members(), core.prompts());
        let rewards = Array2::from_shape_vec(shape, core.rewards().to_vec());
        rewards
            .expect("the table is members x prompts")
            .into_pyarray(py)
    }

    fn __repr__(&self) -> String {
        let core = self.core();
        let (members, prompts) = (core.members(), core.prompts());
        format!(
            "FitnessTable(members={members}, prompts={prompts}, failures={})",
            core.failures()
        )
    }
}

impl FitnessTable {
    fn core(&self) -> MutexGuard<'_, Core> {
        // `set` writes a cell and its counts without a call that can panic in between.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CoreError for FitnessError {
    fn class(&self) -> &'static str {
        match self {
            Self::UnknownPolicy { .. } => "ConfigError",
            Self::Empty { .. }
            | Self::TooLarge { .. }
            | Self::Outside { .. }
            | Self::Twice { .. }
            | Self::Length { .. }
            | Self::Incomplete { .. }
            | Self::Failed { .. } => "PopulationError",
        }
    }
}
