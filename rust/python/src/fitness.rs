//! Sums of units and the fitness table.

use es_core::fitness::{self, FailurePolicy, FitnessError, FitnessTable as Core};
use es_core::plan::Plan;
use pyo3::prelude::*;

use crate::door::{CoreError, Guarded, detached};
use crate::team::Table;

/// Adds the class and the function of this file to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(unit_sums, m)?)?;
    m.add_class::<FitnessTable>()
}

/// The sums of the rewards of a unit, given member by member: the numbers that ranks send.
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
    detached(py, || {
        let policy: FailurePolicy = failure_policy.parse()?;
        Ok::<_, FitnessError>(fitness::unit_sums(&rewards, members, policy))
    })
}

/// The sums of each unit of a plan. Each unit is filled exactly once.
#[pyclass(frozen, module = "es_llm._core")]
pub struct FitnessTable(Guarded<Core>);

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
        let policy = detached(py, || failure_policy.parse::<FailurePolicy>())?;
        let plan = detached(py, || {
            Plan::new(members, prompts, members_per_unit, prompts_per_unit)
        })?;
        Ok(Self(Guarded::new(Core::new(plan, policy))))
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "extracted from a Python sequence"
    )]
    fn set(&self, py: Python<'_>, unit: usize, sums: Vec<f64>) -> PyResult<()> {
        self.0.attempt(py, |core| core.set(unit, &sums))
    }

    /// Fills all units from the table of a complete round, which may have further units behind them.
    fn fill(&self, py: Python<'_>, table: &Table) -> PyResult<()> {
        self.0.attempt(py, |core| core.fill(&table.0.values))
    }

    #[getter]
    fn complete(&self, py: Python<'_>) -> PyResult<bool> {
        self.0.with(py, |core| core.complete())
    }

    #[getter]
    fn failures(&self, py: Python<'_>) -> PyResult<u64> {
        self.0.with(py, |core| core.failures())
    }

    /// Fitness of each member.
    pub fn fitness(&self, py: Python<'_>) -> PyResult<Vec<Option<f64>>> {
        self.0.attempt(py, |core| core.fitness())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        self.0.with(py, |core| {
            let (complete, failures) = (core.complete(), core.failures());
            format!("FitnessTable(complete={complete}, failures={failures})")
        })
    }
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
