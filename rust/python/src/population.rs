//! Members, records and populations.

use std::fmt::Write as _;
use std::sync::Arc;

use es_core::fitness::FailurePolicy;
use es_core::journal::encode_record;
use es_core::population::{
    Member as CoreMember, Population as Core, PopulationError, Record as CoreRecord,
};
use es_core::shaping::{Shaping, ShapingError};
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::door::{CoreError, Guarded, detached, unfailing};
use crate::fitness::FitnessTable;

/// Adds the classes of this file to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Member>()?;
    m.add_class::<Record>()?;
    m.add_class::<Population>()
}

/// One perturbed model: the whole address of its noise, with sign and scale.
#[pyclass(frozen, eq, module = "es_llm._core")]
#[derive(PartialEq)]
pub struct Member(CoreMember);

#[pymethods]
impl Member {
    #[getter]
    fn run_seed(&self) -> u64 {
        self.0.run_seed
    }

    #[getter]
    fn iteration(&self) -> u32 {
        self.0.iteration
    }

    #[getter]
    fn index(&self) -> u32 {
        self.0.index
    }

    #[getter]
    fn pair(&self) -> u32 {
        self.0.pair
    }

    /// +1, or -1 for the mirrored member of an antithetic pair.
    #[getter]
    fn sign(&self) -> i8 {
        self.0.sign
    }

    /// Scale of the noise.
    #[getter]
    fn sigma(&self) -> f64 {
        self.0.sigma
    }

    fn __hash__(&self) -> u64 {
        self.0.run_seed ^ (u64::from(self.0.iteration) << 32 | u64::from(self.0.index))
    }

    fn __repr__(&self) -> String {
        let CoreMember {
            run_seed,
            iteration,
            index,
            pair,
            sign,
            sigma,
        } = self.0;
        format!(
            "Member(run_seed={run_seed}, iteration={iteration}, index={index}, pair={pair}, sign={sign:+}, \
             sigma={sigma:?})"
        )
    }
}

/// One iteration of a run: everything that `apply` and the update of the weights need.
#[pyclass(frozen, eq, module = "es_llm._core")]
#[derive(Clone, PartialEq)]
pub struct Record(pub CoreRecord);

#[pymethods]
impl Record {
    #[getter]
    fn run_seed(&self) -> u64 {
        self.0.run_seed
    }

    #[getter]
    fn iteration(&self) -> u32 {
        self.0.iteration
    }

    #[getter]
    fn sigma(&self) -> f64 {
        self.0.sigma
    }

    #[getter]
    fn learning_rate(&self) -> f64 {
        self.0.learning_rate
    }

    /// Rows of the training data that were consumed before this iteration.
    #[getter]
    fn cursor(&self) -> u64 {
        self.0.cursor
    }

    /// One value per member; None for a member that failed.
    #[getter]
    fn fitness(&self) -> Vec<Option<f64>> {
        self.0.fitness.clone()
    }

    /// (P,): the factor of the noise of each pair. Shaped fitness Z, or Z+ - Z- of an antithetic pair.
    #[getter]
    fn coefficients<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        unfailing(py, || self.0.coefficients.clone()).map(|values| values.into_pyarray(py))
    }

    /// True in records of version-1 journals: learning rate / N is folded into the coefficients.
    #[getter]
    fn rate_folded(&self) -> bool {
        self.0.rate_folded
    }

    /// The bytes of the record in a journal.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        unfailing(py, || encode_record(&self.0)).map(|bytes| PyBytes::new(py, &bytes))
    }

    /// (P,): f32(learning rate / N * coefficient), the factor of the noise of each pair in plain SGD.
    fn sgd_coefficients<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<f32>>> {
        unfailing(py, || self.0.sgd_coefficients()).map(|values| values.into_pyarray(py))
    }

    fn __repr__(&self) -> String {
        let record = &self.0;
        let failed = record
            .fitness
            .iter()
            .filter(|value| value.is_none())
            .count();
        let mut text = format!(
            "Record(run_seed={}, iteration={}, sigma={:?}, learning_rate={:?}, cursor={}, members={}, pairs={}",
            record.run_seed,
            record.iteration,
            record.sigma,
            record.learning_rate,
            record.cursor,
            record.fitness.len(),
            record.coefficients.len()
        );
        if failed > 0 {
            let _ = write!(text, ", failed={failed}"); // Writing to a String never fails.
        }
        text + ")"
    }
}

/// Members and seeds of a run, without weights. The state is a function of the records.
#[pyclass(frozen, module = "es_llm._core")]
pub struct Population(Guarded<Core>);

#[pymethods]
impl Population {
    #[new]
    #[pyo3(signature = (*, run_seed, population_size, antithetic=false, shaping=None, failure_policy=None))]
    fn new(
        py: Python<'_>,
        run_seed: u64,
        population_size: usize,
        antithetic: bool,
        shaping: Option<&Bound<'_, PyAny>>,
        failure_policy: Option<&str>,
    ) -> PyResult<Self> {
        let shaping = match shaping {
            None => Shaping::default(),
            Some(rule) => shaping_of(rule)?,
        };
        let policy = failure_policy.unwrap_or(FailurePolicy::default().name());
        let policy = detached(py, || policy.parse())?;
        let core = detached(py, || {
            Core::new(run_seed, population_size, antithetic, shaping, policy)
        })?;
        Ok(Self(Guarded::new(core)))
    }

    #[getter]
    fn iteration(&self, py: Python<'_>) -> PyResult<u32> {
        self.0.with(py, |core| core.iteration())
    }

    #[pyo3(signature = (*, sigma))]
    fn ask(&self, py: Python<'_>, sigma: f64) -> PyResult<Vec<Member>> {
        let members = self.0.attempt(py, |core| core.ask(sigma))?;
        Ok(members.into_iter().map(Member).collect())
    }

    /// The record of these fitness values. Changes nothing: the caller journals the record, then applies it.
    #[pyo3(signature = (fitness, *, sigma, learning_rate, cursor=0))]
    fn tell(
        &self,
        py: Python<'_>,
        fitness: Vec<Option<f64>>,
        sigma: f64,
        learning_rate: f64,
        cursor: u64,
    ) -> PyResult<Record> {
        let core = self.copy(py)?;
        let record = detached(py, move || {
            core.tell(&fitness, sigma, learning_rate, cursor)
        });
        record.map(Record)
    }

    /// The record of a complete table.
    #[pyo3(signature = (table, *, sigma, learning_rate, cursor=0))]
    fn tell_table(
        &self,
        py: Python<'_>,
        table: &FitnessTable,
        sigma: f64,
        learning_rate: f64,
        cursor: u64,
    ) -> PyResult<Record> {
        self.tell(py, table.fitness(py)?, sigma, learning_rate, cursor)
    }

    /// The bytes of a record, as ranks send it.
    fn pack<'py>(&self, py: Python<'py>, record: &Record) -> PyResult<Bound<'py, PyBytes>> {
        let core = self.copy(py)?;
        unfailing(py, || core.pack(&record.0)).map(|bytes| PyBytes::new(py, &bytes))
    }

    /// The record of packed bytes.
    fn unpack(&self, py: Python<'_>, data: &[u8]) -> PyResult<Record> {
        let core = self.copy(py)?;
        detached(py, || core.unpack(data)).map(Record)
    }

    /// Moves to the next iteration. The live run, resume and replay use it.
    fn apply(&self, py: Python<'_>, record: &Record) -> PyResult<()> {
        self.0.attempt(py, |core| core.apply(&record.0))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        self.0.with(py, |core| format!("{core:?}"))
    }
}

impl Population {
    /// A copy, used without the lock: a custom shaping rule may call this population.
    fn copy(&self, py: Python<'_>) -> PyResult<Core> {
        self.0.with(py, |core| core.clone())
    }
}

impl CoreError for PopulationError {
    fn class(&self) -> &'static str {
        match self {
            Self::Size(_)
            | Self::Odd(_)
            | Self::Scale { .. }
            | Self::Length { .. }
            | Self::Failed { .. }
            | Self::Overflow { .. }
            | Self::Order { .. }
            | Self::Shape { .. }
            | Self::Seed { .. }
            | Self::Packed(_)
            | Self::Exhausted(_) => "PopulationError",
            Self::Shaping(error) => error.class(),
        }
    }
}

impl CoreError for ShapingError {
    fn class(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "ConfigError",
            Self::Failed { .. } | Self::Values { .. } => "PopulationError",
        }
    }
}

/// The rule with this name, or a Python function: float64 array (M,), the fitness of the members that count -> M numbers.
fn shaping_of(rule: &Bound<'_, PyAny>) -> PyResult<Shaping> {
    let py = rule.py();
    if let Ok(name) = rule.extract::<String>() {
        return detached(py, || Shaping::named(&name));
    }
    let name = rule.getattr("__name__").and_then(|name| name.extract());
    let name = name.unwrap_or_else(|_| "custom".to_owned());
    let function = rule.clone().unbind();
    let shape = move |fitness: &[f64]| {
        Python::attach(|py| {
            let fitness = PyArray1::from_slice(py, fitness);
            let shaped = function.call1(py, (fitness,));
            let values = shaped.and_then(|shaped| shaped.extract::<Vec<f64>>(py));
            values.map_err(|error| error.to_string())
        })
    };
    Ok(Shaping::Custom(name, Arc::new(shape)))
}
