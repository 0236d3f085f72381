//! Units of work.

use es_core::schedule::{self as core, ScheduleError, Unit as CoreUnit};
use pyo3::prelude::*;

use crate::door::{CoreError, detached};

/// Adds this file's class and function to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Unit>()?;
    m.add_function(wrap_pyfunction!(plan_units, m)?)
}

/// A unit of work: one member and one chunk of prompts [start, stop).
#[pyclass(frozen, eq, module = "es_llm._core")]
#[derive(Clone, Copy, PartialEq)]
pub struct Unit(pub CoreUnit);

#[pymethods]
impl Unit {
    #[getter]
    fn index(&self) -> u32 {
        self.0.index
    }

    #[getter]
    fn member(&self) -> u32 {
        self.0.member
    }

    #[getter]
    fn start(&self) -> u32 {
        self.0.start
    }

    #[getter]
    fn stop(&self) -> u32 {
        self.0.stop
    }

    fn __hash__(&self) -> u64 {
        u64::from(self.0.member) << 32 | u64::from(self.0.index)
    }

    fn __repr__(&self) -> String {
        let CoreUnit {
            index,
            member,
            start,
            stop,
        } = self.0;
        format!("Unit(index={index}, member={member}, start={start}, stop={stop})")
    }
}

/// The units of an iteration, member by member; depends on nothing but its arguments.
#[pyfunction]
fn plan_units(
    py: Python<'_>,
    members: u32,
    prompts: u32,
    prompts_per_unit: u32,
) -> PyResult<Vec<Unit>> {
    let units = detached(py, || core::plan_units(members, prompts, prompts_per_unit))?;
    Ok(units.into_iter().map(Unit).collect())
}

impl CoreError for ScheduleError {
    fn class(&self) -> &'static str {
        match self {
            Self::NoUnits
            | Self::NoWorkers { .. }
            | Self::Repeated { .. }
            | Self::UnknownUnit { .. }
            | Self::UnknownWorker { .. }
            | Self::LostWorker { .. }
            | Self::Zero { .. }
            | Self::TooMany { .. }
            | Self::Cost { .. }
            | Self::Speed { .. }
            | Self::UnknownPolicy { .. } => "ScheduleError",
        }
    }
}
