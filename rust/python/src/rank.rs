//! One rank's machine.

use std::sync::{Mutex, PoisonError};

use es_core::rank::{RankMachine as CoreMachine, Step as CoreStep};
use pyo3::prelude::*;

use crate::door::to_python;
use crate::schedule::Unit;

/// Adds this file's classes to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Step>()?;
    m.add_class::<RankMachine>()
}

/// What this rank does next.
#[pyclass(frozen, eq, module = "es_llm._core")]
#[derive(PartialEq)]
pub struct Step(CoreStep);

#[pymethods]
impl Step {
    #[getter]
    fn kind(&self) -> &'static str {
        match self.0 {
            CoreStep::Perturb { .. } => "perturb",
            CoreStep::Evaluate { .. } => "evaluate",
            CoreStep::Exchange => "exchange",
            CoreStep::Journal => "journal",
            CoreStep::Update => "update",
            CoreStep::Digest => "digest",
            CoreStep::Finish => "finish",
        }
    }

    #[getter]
    fn member(&self) -> Option<u32> {
        if let CoreStep::Perturb { member } = self.0 {
            Some(member)
        } else {
            None
        }
    }

    #[getter]
    fn unit(&self) -> Option<u32> {
        if let CoreStep::Evaluate { unit } = self.0 {
            Some(unit)
        } else {
            None
        }
    }

    fn __repr__(&self) -> String {
        match self.0 {
            CoreStep::Perturb { member } => format!("Step(kind=\"perturb\", member={member})"),
            CoreStep::Evaluate { unit } => format!("Step(kind=\"evaluate\", unit={unit})"),
            _ => format!("Step(kind={:?})", self.kind()),
        }
    }
}

/// One iteration as one rank sees it: asks for one step after another, and is told when each is done.
#[pyclass(frozen, module = "es_llm._core")]
pub struct RankMachine(Mutex<CoreMachine>);

#[pymethods]
impl RankMachine {
    #[new]
    #[pyo3(signature = (*, rank, ranks, units, digest))]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "extracted from a Python sequence"
    )]
    fn new(
        py: Python<'_>,
        rank: u32,
        ranks: u32,
        units: Vec<PyRef<'_, Unit>>,
        digest: bool,
    ) -> PyResult<Self> {
        let units = units.iter().map(|unit| unit.0).collect();
        let machine = CoreMachine::new(rank, ranks, units, digest);
        machine
            .map(|core| Self(Mutex::new(core)))
            .map_err(|error| to_python(py, &error))
    }

    /// The step to do now; the same one until `done` is called.
    fn next(&self) -> Step {
        self.with(|core| Step(core.next()))
    }

    /// The current step is finished.
    fn done(&self, py: Python<'_>, now: f64) -> PyResult<()> {
        self.with(|core| core.done(now))
            .map_err(|error| to_python(py, &error))
    }
}

impl RankMachine {
    fn with<T>(&self, work: impl FnOnce(&mut CoreMachine) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
