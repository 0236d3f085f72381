//! Scores of units and the fitness table.

use std::sync::{Mutex, MutexGuard, PoisonError};

use es_core::fitness::{self, FailurePolicy, FitnessError, FitnessTable as Core};
use pyo3::prelude::*;

use crate::door::{CoreError, to_python};

/// Adds this file's class and function to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(unit_score, m)?)?;
    m.add_class::<FitnessTable>()
}

/// What a unit's rewards come to: the few numbers of it that travel.
#[pyfunction]
#[expect(
    clippy::needless_pass_by_value,
    reason = "extracted from a Python sequence"
)]
fn unit_score(
    py: Python<'_>,
    rewards: Vec<Option<f64>>,
    failure_policy: &str,
) -> PyResult<Vec<f64>> {
    Ok(fitness::score(&rewards, policy(py, failure_policy)?))
}

/// One score per unit of `plan_units`, each told exactly once.
#[pyclass(frozen, module = "es_llm._core")]
pub struct FitnessTable(Mutex<Core>);

#[pymethods]
impl FitnessTable {
    #[new]
    fn new(
        py: Python<'_>,
        members: u32,
        prompts: u32,
        prompts_per_unit: u32,
        failure_policy: &str,
    ) -> PyResult<Self> {
        let policy = policy(py, failure_policy)?;
        Core::new(members, prompts, prompts_per_unit, policy)
            .map(|core| Self(Mutex::new(core)))
            .map_err(|error| to_python(py, &error))
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "extracted from a Python sequence"
    )]
    fn set(&self, py: Python<'_>, unit: usize, score: Vec<f64>) -> PyResult<()> {
        self.core()
            .set(unit, &score)
            .map_err(|error| to_python(py, &error))
    }

    #[getter]
    fn complete(&self) -> bool {
        self.core().complete()
    }

    #[getter]
    fn failures(&self) -> u64 {
        self.core().failures()
    }

    fn fitness(&self, py: Python<'_>) -> PyResult<Vec<Option<f64>>> {
        self.core().fitness().map_err(|error| to_python(py, &error))
    }

    fn __repr__(&self) -> String {
        let core = self.core();
        format!(
            "FitnessTable(complete={}, failures={})",
            core.complete(),
            core.failures()
        )
    }
}

impl FitnessTable {
    fn core(&self) -> MutexGuard<'_, Core> {
        // `set` writes a score and its count without a call that can panic in between.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn policy(py: Python<'_>, name: &str) -> PyResult<FailurePolicy> {
    name.parse().map_err(|error| to_python(py, &error))
}

impl CoreError for FitnessError {
    fn class(&self) -> &'static str {
        match self {
            Self::UnknownPolicy { .. } => "ConfigError",
            Self::Plan(_)
            | Self::Outside { .. }
            | Self::Twice { .. }
            | Self::Score { .. }
            | Self::Incomplete { .. }
            | Self::Failed { .. } => "PopulationError",
        }
    }
}
