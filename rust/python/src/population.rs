//! Members, records and populations.

use std::fmt::Write as _;
use std::sync::Mutex;

use es_core::fitness::FailurePolicy;
use es_core::journal::{pack_record, pack_spelled_record, unpack_record};
use es_core::population::{
    Member as CoreMember, Population as Core, PopulationError, Record as CoreRecord,
};
use es_core::shaping::{ShapingRule, UnknownShaping};
use numpy::{IntoPyArray, PyArray1};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::door::{CoreError, detached, raise, to_python};

/// Adds this file's classes to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Member>()?;
    m.add_class::<Record>()?;
    m.add_class::<Population>()
}

/// One member of the population: an index, its noise pair and its sign.
#[pyclass(frozen, eq, module = "es_llm._core")]
#[derive(PartialEq)]
pub struct Member(CoreMember);

#[pymethods]
impl Member {
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

    fn __hash__(&self) -> u64 {
        u64::from(self.0.iteration) << 32 | u64::from(self.0.index)
    }

    fn __repr__(&self) -> String {
        let CoreMember {
            iteration,
            index,
            pair,
            sign,
        } = self.0;
        format!("Member(iteration={iteration}, index={index}, pair={pair}, sign={sign:+})")
    }
}

/// One iteration of a run: everything that `apply` and the weight update need.
#[pyclass(frozen, eq, module = "es_llm._core")]
#[derive(Clone, PartialEq)]
pub struct Record(pub CoreRecord);

#[pymethods]
impl Record {
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

    /// The bytes by which ranks tell each other a record: 8 per member and a few, since the coefficients follow from the
    /// fitness. `spelled`: with the coefficients, whatever they follow from.
    #[pyo3(signature = (*, spelled=false))]
    fn to_bytes<'py>(&self, py: Python<'py>, spelled: bool) -> Bound<'py, PyBytes> {
        let pack = if spelled {
            pack_spelled_record
        } else {
            pack_record
        };
        PyBytes::new(py, &pack(&self.0))
    }

    /// The record of some bytes.
    #[staticmethod]
    fn from_bytes(py: Python<'_>, data: &[u8]) -> PyResult<Self> {
        let record = unpack_record(data);
        record.map(Self).map_err(|reason| {
            raise(
                py,
                "JournalError",
                &format!("expected a record, got {reason}"),
            )
        })
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

    #[getter]
    fn pairs(&self) -> Vec<u32> {
        self.0.pairs.clone()
    }

    /// One f32 coefficient per pair, learning rate and 1/N folded in.
    #[getter]
    fn coefficients<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        self.0.coefficients.clone().into_pyarray(py)
    }

    fn __repr__(&self) -> String {
        let record = &self.0;
        let failed = record
            .fitness
            .iter()
            .filter(|value| value.is_none())
            .count();
        let mut text = format!(
            "Record(iteration={}, sigma={}, learning_rate={}, cursor={}, members={}, pairs={}",
            record.iteration,
            record.sigma,
            record.learning_rate,
            record.cursor,
            record.fitness.len(),
            record.pairs.len()
        );
        if failed > 0 {
            let _ = write!(text, ", failed={failed}"); // a String takes any text
        }
        text + ")"
    }
}

/// Members and seeds of a run, without weights. State is a fold of records.
#[pyclass(frozen, module = "es_llm._core")]
pub struct Population(Mutex<Core>);

#[pymethods]
impl Population {
    #[new]
    #[pyo3(signature = (*, run_seed, population_size, antithetic=false, shaping="zscore", failure_policy="worst"))]
    fn new(
        py: Python<'_>,
        run_seed: u64,
        population_size: usize,
        antithetic: bool,
        shaping: &str,
        failure_policy: &str,
    ) -> PyResult<Self> {
        let shaping: ShapingRule = shaping.parse().map_err(|error| to_python(py, &error))?;
        let policy: FailurePolicy = failure_policy
            .parse()
            .map_err(|error| to_python(py, &error))?;
        let core = Core::new(run_seed, population_size, antithetic, shaping, policy);
        core.map(|core| Self(Mutex::new(core)))
            .map_err(|error| to_python(py, &error))
    }

    #[getter]
    fn run_seed(&self) -> u64 {
        self.with(|core| core.run_seed())
    }

    #[getter]
    fn population_size(&self) -> usize {
        self.with(|core| core.population_size())
    }

    #[getter]
    fn pairs(&self) -> usize {
        self.with(|core| core.pairs())
    }

    #[getter]
    fn iteration(&self) -> u32 {
        self.with(|core| core.iteration())
    }

    fn ask(&self) -> Vec<Member> {
        self.with(|core| core.ask())
            .into_iter()
            .map(Member)
            .collect()
    }

    /// The record that these fitness values make. Changes nothing: journal it, then `apply` it.
    #[pyo3(signature = (fitness, *, sigma, learning_rate, cursor=0))]
    fn tell(
        &self,
        py: Python<'_>,
        fitness: Vec<Option<f64>>,
        sigma: f64,
        learning_rate: f64,
        cursor: u64,
    ) -> PyResult<Record> {
        detached(py, move || {
            self.with(|core| core.tell(&fitness, sigma, learning_rate, cursor))
        })
        .map(Record)
    }

    /// Goes to the next iteration. The live run and resume share it.
    fn apply(&self, py: Python<'_>, record: &Record) -> PyResult<()> {
        self.with(|core| core.apply(&record.0))
            .map_err(|error| to_python(py, &error))
    }

    fn __repr__(&self) -> String {
        self.with(|core| {
            let (seed, size, iteration) = (core.run_seed(), core.population_size(), core.iteration());
            format!("Population(run_seed={seed}, population_size={size}, pairs={}, iteration={iteration})", core.pairs())
        })
    }
}

impl Population {
    fn with<T>(&self, work: impl FnOnce(&mut Core) -> T) -> T {
        // A panic leaves a population unchanged: `apply` sets one field, last.
        work(
            &mut self
                .0
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
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
            | Self::Pairs { .. }
            | Self::Exhausted(_) => "PopulationError",
        }
    }
}

impl CoreError for UnknownShaping {
    fn class(&self) -> &'static str {
        "ConfigError"
    }
}
