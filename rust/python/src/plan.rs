//! Units of work.

use es_core::plan::{Plan, PlanError, Unit as CoreUnit};
use pyo3::prelude::*;
use pyo3::types::PyRange;

use crate::door::{CoreError, detached};

/// Adds the class and function of this file to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Unit>()?;
    m.add_function(wrap_pyfunction!(plan_units, m)?)
}

/// A unit of work: a range of members and a range of prompts, evaluated as one batch.
#[pyclass(frozen, eq, module = "es_llm._core")]
#[derive(PartialEq)]
pub struct Unit(CoreUnit);

#[pymethods]
impl Unit {
    #[getter]
    fn index(&self) -> u32 {
        self.0.index
    }

    /// Indices of the members.
    #[getter]
    fn members<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyRange>> {
        let range = &self.0.members;
        PyRange::new(py, range.start as isize, range.end as isize)
    }

    /// Indices of the prompts.
    #[getter]
    fn prompts<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyRange>> {
        let range = &self.0.prompts;
        PyRange::new(py, range.start as isize, range.end as isize)
    }

    fn __hash__(&self) -> u64 {
        u64::from(self.0.members.start) << 32 | u64::from(self.0.index)
    }

    fn __repr__(&self) -> String {
        let CoreUnit {
            index,
            members,
            prompts,
        } = &self.0;
        format!("Unit(index={index}, members={members:?}, prompts={prompts:?})")
    }
}

/// The units of an iteration. They depend on the arguments only.
#[pyfunction]
#[pyo3(signature = (members, prompts, *, members_per_unit=1, prompts_per_unit))]
fn plan_units(
    py: Python<'_>,
    members: u32,
    prompts: u32,
    members_per_unit: u32,
    prompts_per_unit: u32,
) -> PyResult<Vec<Unit>> {
    detached(py, || {
        let plan = Plan::new(members, prompts, members_per_unit, prompts_per_unit)?;
        Ok::<_, PlanError>(plan.units().map(Unit).collect())
    })
}

impl CoreError for PlanError {
    fn class(&self) -> &'static str {
        "PopulationError"
    }
}
