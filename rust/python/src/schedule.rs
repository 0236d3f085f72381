//! The schedule.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use es_core::schedule::{
    self as core, Action as CoreAction, Event as CoreEvent, PolicyKind, ScheduleError,
};
use pyo3::prelude::*;

use crate::door::{CoreError, to_python};

/// Adds this file's classes and functions to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Event>()?;
    m.add_class::<Action>()?;
    m.add_class::<Schedule>()
}

/// What happened.
#[pyclass(frozen, eq, module = "es_llm._core")]
#[derive(PartialEq)]
pub struct Event(CoreEvent);

#[pymethods]
impl Event {
    /// A worker wants more work.
    #[staticmethod]
    #[pyo3(name = "WorkerReady")]
    fn worker_ready(worker: u32) -> Self {
        Self(CoreEvent::WorkerReady(worker))
    }

    /// A worker has the result of a unit; `result` stands for it and is compared with that of a second worker.
    #[staticmethod]
    #[pyo3(name = "UnitDone", signature = (worker, unit, result = 0))]
    fn unit_done(worker: u32, unit: u32, result: u64) -> Self {
        Self(CoreEvent::UnitDone(worker, unit, result))
    }

    /// A worker is gone; what it had is open again.
    #[staticmethod]
    #[pyo3(name = "WorkerLost")]
    fn worker_lost(worker: u32) -> Self {
        Self(CoreEvent::WorkerLost(worker))
    }

    /// A worker came, or came back.
    #[staticmethod]
    #[pyo3(name = "WorkerJoined")]
    fn worker_joined(worker: u32) -> Self {
        Self(CoreEvent::WorkerJoined(worker))
    }

    /// Time passed.
    #[staticmethod]
    #[pyo3(name = "Tick")]
    fn tick() -> Self {
        Self(CoreEvent::Tick)
    }

    fn __repr__(&self) -> String {
        match self.0 {
            CoreEvent::WorkerReady(worker) => format!("Event.WorkerReady({worker})"),
            CoreEvent::UnitDone(worker, unit, result) => {
                format!("Event.UnitDone({worker}, {unit}, {result})")
            }
            CoreEvent::WorkerLost(worker) => format!("Event.WorkerLost({worker})"),
            CoreEvent::WorkerJoined(worker) => format!("Event.WorkerJoined({worker})"),
            CoreEvent::Tick => "Event.Tick()".to_owned(),
        }
    }
}

/// What to do: kind "assign" or "duplicate" (worker, unit), "cancel" (worker, unit), "differs" (worker, unit, first: the worker whose
/// result counted) or "finish".
#[pyclass(frozen, eq, module = "es_llm._core")]
#[derive(PartialEq)]
pub struct Action(CoreAction);

#[pymethods]
impl Action {
    #[getter]
    fn kind(&self) -> &'static str {
        match self.0 {
            CoreAction::Assign(..) => "assign",
            CoreAction::Duplicate(..) => "duplicate",
            CoreAction::Cancel(..) => "cancel",
            CoreAction::Differs { .. } => "differs",
            CoreAction::Finish => "finish",
        }
    }

    #[getter]
    fn worker(&self) -> Option<u32> {
        match self.0 {
            CoreAction::Assign(worker, _)
            | CoreAction::Duplicate(worker, _)
            | CoreAction::Cancel(worker, _)
            | CoreAction::Differs { second: worker, .. } => Some(worker),
            CoreAction::Finish => None,
        }
    }

    #[getter]
    fn first(&self) -> Option<u32> {
        match self.0 {
            CoreAction::Differs { first, .. } => Some(first),
            _ => None,
        }
    }

    #[getter]
    fn unit(&self) -> Option<u32> {
        match self.0 {
            CoreAction::Assign(_, unit)
            | CoreAction::Duplicate(_, unit)
            | CoreAction::Cancel(_, unit)
            | CoreAction::Differs { unit, .. } => Some(unit),
            CoreAction::Finish => None,
        }
    }

    fn __repr__(&self) -> String {
        match self.0 {
            CoreAction::Assign(worker, unit)
            | CoreAction::Duplicate(worker, unit)
            | CoreAction::Cancel(worker, unit) => {
                format!(
                    "Action(kind={:?}, worker={worker}, unit={unit})",
                    self.kind()
                )
            }
            CoreAction::Differs {
                unit,
                first,
                second,
            } => {
                format!("Action(kind=\"differs\", worker={second}, unit={unit}, first={first})")
            }
            CoreAction::Finish => "Action(kind=\"finish\")".to_owned(),
        }
    }
}

/// State machine over opaque unit and worker ids: which worker evaluates which unit.
///
/// `costs` are the expected costs of the units 0, 1, ... in any measure; `workers` maps ids to speeds in cost per second
/// (0: unknown); `policy` is "static" (one run of units per worker) or "dynamic" (as they become ready).
#[pyclass(frozen, module = "es_llm._core")]
pub struct Schedule(Mutex<core::Schedule>);

#[pymethods]
impl Schedule {
    #[new]
    #[pyo3(signature = (costs, workers, policy = "dynamic"))]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "extracted from Python containers"
    )]
    fn new(
        py: Python<'_>,
        costs: Vec<f64>,
        workers: BTreeMap<u32, f64>,
        policy: &str,
    ) -> PyResult<Self> {
        let workers: Vec<(u32, f64)> = workers.into_iter().collect();
        let make = |policy| core::Schedule::new(&costs, &workers, policy);
        let schedule = policy.parse::<PolicyKind>().and_then(make);
        schedule
            .map(|core| Self(Mutex::new(core)))
            .map_err(|error| to_python(py, &error))
    }

    fn handle_event(&self, py: Python<'_>, now: f64, event: &Event) -> PyResult<Vec<Action>> {
        let actions = self
            .with(|core| core.handle_event(now, event.0))
            .map_err(|error| to_python(py, &error))?;
        Ok(actions.into_iter().map(Action).collect())
    }

    /// Whether a result of this unit was counted.
    fn is_done(&self, py: Python<'_>, unit: u32) -> PyResult<bool> {
        self.with(|core| core.is_done(unit))
            .map_err(|error| to_python(py, &error))
    }

    /// Cost per second of each living worker that was measured: the `workers` of the next schedule.
    #[getter]
    fn speeds(&self) -> BTreeMap<u32, f64> {
        self.with(|core| core.speeds().collect())
    }

    #[getter]
    fn finished(&self) -> bool {
        self.with(|core| core.finished())
    }
}

impl Schedule {
    fn with<T>(&self, work: impl FnOnce(&mut core::Schedule) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
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
            | Self::Cost { .. }
            | Self::Speed { .. }
            | Self::UnknownPolicy { .. } => "ScheduleError",
        }
    }
}
