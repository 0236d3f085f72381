//! One rank of a job: messages in, messages and instructions out.

use std::collections::BTreeMap;

use es_core::schedule::{PolicyKind, ScheduleError};
use es_core::team::{
    Loss as CoreLoss, Outcome, Rank, RankId, Round, Settings, Step, Table as CoreTable, WireError,
};
use pyo3::prelude::*;

use crate::door::{CoreError, Guarded, detached};

/// Adds the classes of this file to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Instruction>()?;
    m.add_class::<Loss>()?;
    m.add_class::<Table>()?;
    m.add_class::<TeamRank>()
}

/// Why a rank was lost.
#[pyclass(frozen, eq, from_py_object, module = "es_llm._core")]
#[derive(Clone, Debug, PartialEq)]
pub enum Loss {
    Dead(),
    Silent(),
    Failed { reason: String },
}

#[pymethods]
impl Loss {
    fn __str__(&self) -> String {
        match self {
            Self::Dead() => "dead".to_owned(),
            Self::Silent() => "silent".to_owned(),
            Self::Failed { reason } => format!("failed: {reason}"),
        }
    }

    fn __repr__(&self) -> String {
        format!("Loss.{self:?}")
    }
}

impl From<&CoreLoss> for Loss {
    fn from(loss: &CoreLoss) -> Self {
        match loss {
            CoreLoss::Dead => Self::Dead(),
            CoreLoss::Silent => Self::Silent(),
            CoreLoss::Failed(reason) => Self::Failed {
                reason: reason.clone(),
            },
        }
    }
}

/// The results of a complete round. The values stay in Rust unless they are asked for.
#[pyclass(frozen, module = "es_llm._core")]
#[derive(Debug)]
pub struct Table(pub(crate) CoreTable);

#[pymethods]
impl Table {
    #[getter]
    fn values(&self) -> &[Vec<f64>] {
        &self.0.values
    }

    #[getter]
    fn counts(&self) -> &[u64] {
        &self.0.counts
    }

    #[getter]
    fn figures(&self) -> Vec<(u32, &[u8])> {
        let figures = self.0.figures.iter();
        figures
            .map(|(unit, bytes)| (*unit, bytes.as_slice()))
            .collect()
    }

    fn __repr__(&self) -> String {
        format!("Table(units={})", self.0.values.len())
    }
}

/// What the main thread of a rank does next.
#[pyclass(frozen, module = "es_llm._core")]
#[derive(Debug)]
pub enum Instruction {
    Wait(),
    Evaluate {
        kind: u32,
        iteration: u32,
        unit: u32,
    },
    Apply {
        iteration: u32,
        payload: Vec<u8>,
    },
    Agreed {
        iteration: u32,
        digest: u64,
    },
    Rebuild {
        iteration: u32,
    },
    Welcome {
        payload: Vec<u8>,
    },
    Note {
        payload: Vec<u8>,
    },
    Lead(),
    Follow(),
    Complete {
        table: Py<Table>,
    },
    Halt(),
    Superseded(),
    Lost {
        rank: u32,
        loss: Loss,
    },
    Back {
        rank: u32,
    },
    Stranger {
        rank: u32,
        records: bool,
    },
    Differs {
        first: u32,
        second: u32,
    },
    Diverged {
        ranks: Vec<u32>,
        iteration: u32,
        again: bool,
    },
    Finished {
        payload: Vec<u8>,
    },
    Stopped {
        payload: Vec<u8>,
    },
}

#[pymethods]
impl Instruction {
    fn __repr__(&self) -> String {
        format!("Instruction.{self:?}")
    }
}

impl Instruction {
    /// `table` is that of a complete round.
    fn new(py: Python<'_>, step: Step, table: Option<CoreTable>) -> PyResult<Self> {
        Ok(match step {
            Step::Wait => Self::Wait(),
            Step::Evaluate { round, unit } => Self::Evaluate {
                kind: round.kind,
                iteration: round.step,
                unit,
            },
            Step::Apply { iteration, payload } => Self::Apply { iteration, payload },
            Step::Agreed { iteration, digest } => Self::Agreed { iteration, digest },
            Step::Rebuild { iteration } => Self::Rebuild { iteration },
            Step::Welcome { payload } => Self::Welcome { payload },
            Step::Note { payload } => Self::Note { payload },
            Step::Lead => Self::Lead(),
            Step::Follow => Self::Follow(),
            Step::Complete => match table {
                Some(table) => Self::Complete {
                    table: Py::new(py, Table(table))?,
                },
                None => Self::Superseded(),
            },
            Step::Halt => Self::Halt(),
            Step::Superseded => Self::Superseded(),
            Step::Lost { rank, loss } => Self::Lost {
                rank,
                loss: (&loss).into(),
            },
            Step::Back { rank } => Self::Back { rank },
            Step::Stranger { rank, records } => Self::Stranger { rank, records },
            Step::Differs { first, second, .. } => Self::Differs { first, second },
            Step::Diverged {
                ranks,
                iteration,
                hopeless,
            } => Self::Diverged {
                ranks,
                iteration,
                again: hopeless,
            },
            Step::Finished { payload } => Self::Finished { payload },
            Step::Stopped { payload } => Self::Stopped { payload },
        })
    }
}

/// One rank of a job, as a machine without I/O: see `es_core::team`.
#[pyclass(frozen, module = "es_llm._core")]
pub struct TeamRank(Guarded<Rank>);

#[pymethods]
impl TeamRank {
    #[new]
    fn new(rank: u32, ranks: u32) -> Self {
        Self(Guarded::new(Rank::new(rank, ranks, 0, Settings::default())))
    }

    #[pyo3(signature = (identity, *, assignment = None, unit_timeout_s = 0.0))]
    fn renew(
        &self,
        py: Python<'_>,
        identity: u64,
        assignment: Option<&str>,
        unit_timeout_s: f64,
    ) -> PyResult<()> {
        let mut settings = Settings {
            unit_timeout_s,
            ..Settings::default()
        };
        if let Some(name) = assignment {
            settings.policy = detached(py, || name.parse::<PolicyKind>())?;
        }
        self.0.with(py, |rank| rank.renew(identity, settings))
    }

    #[pyo3(signature = (now, unable = None))]
    fn enter(&self, py: Python<'_>, now: f64, unable: Option<&str>) -> PyResult<()> {
        self.0.with(py, |rank| rank.enter(now, unable))
    }

    fn restore(
        &self,
        py: Python<'_>,
        now: f64,
        first: u32,
        records: Vec<Vec<u8>>,
    ) -> PyResult<bool> {
        self.0
            .with(py, |rank| rank.leading().restore(now, first, records))
    }

    fn receive(&self, py: Python<'_>, now: f64, from: u32, payload: &[u8]) -> PyResult<()> {
        self.0
            .attempt(py, |rank| rank.handle_message(now, from, payload))
    }

    fn lost(&self, py: Python<'_>, now: f64, rank: u32) -> PyResult<()> {
        self.0.with(py, |machine| machine.handle_loss(now, rank))
    }

    fn tick(&self, py: Python<'_>, now: f64) -> PyResult<bool> {
        self.0.with(py, |rank| {
            rank.handle_tick(now);
            rank.over()
        })
    }

    fn take_sends(&self, py: Python<'_>) -> PyResult<Vec<(u32, Vec<u8>)>> {
        self.0.with(py, Rank::poll_sends)
    }

    fn next(&self, py: Python<'_>, now: f64) -> PyResult<Instruction> {
        let (step, table) = self.0.with(py, |rank| {
            let step = rank.poll_step(now);
            let table = (step == Step::Complete).then(|| rank.leading().take_table());
            (step, table.flatten())
        })?;
        Instruction::new(py, step, table)
    }

    fn alive(&self, py: Python<'_>, now: f64) -> PyResult<()> {
        self.0.with(py, |rank| rank.alive(now))
    }

    fn evaluated(
        &self,
        py: Python<'_>,
        now: f64,
        values: Vec<f64>,
        counts: Vec<u64>,
        figures: Vec<u8>,
    ) -> PyResult<()> {
        let outcome = Outcome {
            values,
            counts,
            figures,
        };
        self.0.with(py, |rank| rank.evaluated(now, outcome))
    }

    #[getter]
    fn upcoming(&self, py: Python<'_>) -> PyResult<Option<(u32, u32, u32)>> {
        let known = self.0.with(py, |rank| rank.upcoming())?;
        Ok(known.map(|(round, unit)| (round.kind, round.step, unit)))
    }

    fn digest(&self, py: Python<'_>, now: f64, iteration: u32, digest: u64) -> PyResult<()> {
        self.0.with(py, |rank| rank.digest(now, iteration, digest))
    }

    fn halt(&self, py: Python<'_>, now: f64) -> PyResult<()> {
        self.0.with(py, |rank| rank.halt(now))
    }

    fn resign(&self, py: Python<'_>, now: f64, reason: &str) -> PyResult<()> {
        self.0.with(py, |rank| rank.resign(now, reason))
    }

    #[expect(
        clippy::needless_pass_by_value,
        reason = "extracted from a Python sequence"
    )]
    fn begin(
        &self,
        py: Python<'_>,
        now: f64,
        kind: u32,
        iteration: u32,
        costs: Vec<f64>,
    ) -> PyResult<()> {
        let round = Round {
            kind,
            step: iteration,
        };
        self.0
            .attempt(py, |rank| rank.leading().begin(now, round, &costs))
    }

    fn publish(
        &self,
        py: Python<'_>,
        now: f64,
        iteration: u32,
        payload: Vec<u8>,
    ) -> PyResult<bool> {
        self.0
            .with(py, |rank| rank.leading().publish(now, iteration, payload))
    }

    fn take_over_again(&self, py: Python<'_>) -> PyResult<()> {
        self.0.with(py, |rank| rank.leading().take_over_again())
    }

    fn set_welcome(&self, py: Python<'_>, now: f64, payload: Vec<u8>) -> PyResult<()> {
        self.0
            .with(py, |rank| rank.leading().set_welcome(now, payload))
    }

    fn note(&self, py: Python<'_>, payload: &[u8]) -> PyResult<()> {
        self.0.with(py, |rank| rank.leading().note(payload))
    }

    #[pyo3(signature = (now, payload, *, failed = false))]
    fn finish(&self, py: Python<'_>, now: f64, payload: Vec<u8>, failed: bool) -> PyResult<()> {
        self.0.with(py, |rank| {
            if failed {
                rank.leading().stop(payload);
            } else {
                rank.leading().finish(now, payload);
            }
        })
    }

    #[getter]
    fn expects(&self, py: Python<'_>) -> PyResult<bool> {
        self.0.with(py, |rank| rank.expects())
    }

    #[getter]
    fn losses(&self, py: Python<'_>) -> PyResult<BTreeMap<RankId, Loss>> {
        self.0.with(py, |rank| {
            let losses = rank.losses().iter();
            losses.map(|(rank, loss)| (*rank, loss.into())).collect()
        })
    }

    fn records(&self, py: Python<'_>) -> PyResult<Vec<Vec<u8>>> {
        self.0.with(py, |rank| rank.history().since(0).to_vec())
    }

    #[getter]
    fn traffic(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        self.0.with(py, |rank| rank.traffic())
    }
}

impl CoreError for WireError {
    fn class(&self) -> &'static str {
        "CommunicationError"
    }
}

impl CoreError for ScheduleError {
    fn class(&self) -> &'static str {
        "ScheduleError"
    }
}
