//! Sums of units and the fitness table.

use std::sync::{Mutex, MutexGuard, PoisonError};

use es_core::fitness::{self, FailurePolicy, FitnessError, FitnessTable as Core};
use pyo3::prelude::*;

use crate::door::{CoreError, to_python};
use crate::plan::plan;

/// Adds this file's class and function to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(unit_sums, m)?)?;
    m.add_class::<FitnessTable>()
}

/// The sums of a unit's rewards, given member by member: the few numbers of it that travel.
#[pyfunction]
#[pyo3(signature = (rewards, *, members=1, failure_policy))]
#[expect(
    clippy::needless_pass_by_value,
    reason = "extracted from a Python sequence"
)]
fn unit_sums(
    py: Python<'_>,
    rewards: Vec<Option<f64>>,
    members: usize,
    failure_policy: &str,
) -> PyResult<Vec<f64>> {
    let policy = policy(py, failure_policy)?;
    Ok(fitness::unit_sums(&rewards, members, policy))
}

/// The sums of each unit of a plan, each filled exactly once.
#[pyclass(frozen, module = "es_llm._core")]
pub struct FitnessTable(Mutex<Core>);

#[pymethods]
impl FitnessTable {
    #[new]
    #[pyo3(signature = (members, prompts, *, members_per_unit=1, prompts_per_unit, failure_policy))]
    fn new(
        py: Python<'_>,
        members: u32,
        prompts: u32,
        members_per_unit: u32,
        prompts_per_unit: u32,
        failure_policy: &str,
    ) -> PyResult<Self> {
        let policy = policy(py, failure_policy)?;
        let plan = plan(py, members, prompts, members_per_unit, prompts_per_unit)?;
        Ok(Self(Mutex::new(Core::new(plan, policy))))
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "extracted from a Python sequence"
    )]
    fn set(&self, py: Python<'_>, unit: usize, sums: Vec<f64>) -> PyResult<()> {
        self.core()
            .set(unit, &sums)
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
        // `set` writes a unit's sums in one assignment.
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
            Self::Outside { .. }
            | Self::Twice { .. }
            | Self::Sums { .. }
            | Self::Incomplete { .. }
            | Self::Failed { .. } => "PopulationError",
        }
    }
}
