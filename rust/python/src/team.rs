//! One rank of a job: messages in, messages and steps out.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use es_core::schedule::PolicyKind;
use es_core::team::{Loss, Outcome, Rank, Round, Settings, Step, WireError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::door::{CoreError, detached, to_python};

/// Adds this file's classes to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<TeamStep>()?;
    m.add_class::<TeamRank>()
}

/// What the main thread of a rank does next.
#[pyclass(frozen, eq, module = "es_llm._core")]
#[derive(PartialEq)]
pub struct TeamStep(Step);

#[pymethods]
impl TeamStep {
    #[getter]
    fn kind(&self) -> &'static str {
        match self.0 {
            Step::Wait => "wait",
            Step::Evaluate { .. } => "evaluate",
            Step::Apply { .. } => "apply",
            Step::Agreed { .. } => "agreed",
            Step::Heal { .. } => "heal",
            Step::Welcome { .. } => "welcome",
            Step::Note { .. } => "note",
            Step::Lead => "lead",
            Step::Follow => "follow",
            Step::Complete => "complete",
            Step::Halt => "halt",
            Step::Superseded => "superseded",
            Step::Lost { .. } => "lost",
            Step::Back { .. } => "back",
            Step::Stranger { .. } => "stranger",
            Step::Differs { .. } => "differs",
            Step::Diverged { .. } => "diverged",
            Step::Finished { .. } => "finished",
            Step::Stopped { .. } => "stopped",
        }
    }

    /// (kind, step) of the round, and the unit in it: of `evaluate`.
    #[getter]
    fn unit(&self) -> Option<(u32, u32, u32)> {
        if let Step::Evaluate { round, unit } = self.0 {
            Some((round.kind, round.step, unit))
        } else {
            None
        }
    }

    #[getter]
    fn iteration(&self) -> Option<u32> {
        match self.0 {
            Step::Apply { iteration, .. }
            | Step::Agreed { iteration, .. }
            | Step::Heal { iteration }
            | Step::Diverged { iteration, .. } => Some(iteration),
            _ => None,
        }
    }

    #[getter]
    fn payload<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        match &self.0 {
            Step::Apply { payload, .. }
            | Step::Welcome { payload }
            | Step::Note { payload }
            | Step::Finished { payload }
            | Step::Stopped { payload } => Some(PyBytes::new(py, payload)),
            _ => None,
        }
    }

    #[getter]
    fn digest(&self) -> Option<u64> {
        if let Step::Agreed { digest, .. } = self.0 {
            Some(digest)
        } else {
            None
        }
    }

    /// The ranks it is about; of `differs`, the one whose result counted and the one whose result differs.
    #[getter]
    fn ranks(&self) -> Vec<u32> {
        match &self.0 {
            Step::Lost { rank, .. } | Step::Back { rank } | Step::Stranger { rank, .. } => {
                vec![*rank]
            }
            Step::Differs { first, second, .. } => vec![*first, *second],
            Step::Diverged { ranks, .. } => ranks.clone(),
            _ => Vec::new(),
        }
    }

    /// Why a rank was lost: "dead", "silent", or "resigned: " and its words.
    #[getter]
    fn loss(&self) -> Option<String> {
        if let Step::Lost { loss, .. } = &self.0 {
            Some(told(loss))
        } else {
            None
        }
    }

    /// Of `stranger`: whether its records differ; of `diverged`: whether making the weights anew didn't help.
    #[getter]
    fn worse(&self) -> bool {
        matches!(
            self.0,
            Step::Stranger { records: true, .. } | Step::Diverged { hopeless: true, .. }
        )
    }

    fn __repr__(&self) -> String {
        format!("TeamStep({:?})", self.0)
    }
}

/// Values of each unit, sums of the counts, (unit, figures).
type TakenTable<'py> = (Vec<Vec<f64>>, Vec<u64>, Vec<(u32, Bound<'py, PyBytes>)>);

/// One rank of a job, as a machine without I/O: see `es_core::team`.
#[pyclass(frozen, module = "es_llm._core")]
pub struct TeamRank(Mutex<Rank>);

#[pymethods]
impl TeamRank {
    #[new]
    fn new(rank: u32, ranks: u32) -> Self {
        Self(Mutex::new(Rank::new(rank, ranks, 0, Settings::default())))
    }

    /// Another run begins, on all ranks at the same place.
    #[pyo3(signature = (identity, *, policy = "dynamic", unit_timeout_s = 0.0))]
    fn renew(
        &self,
        py: Python<'_>,
        identity: u64,
        policy: &str,
        unit_timeout_s: f64,
    ) -> PyResult<()> {
        let policy: PolicyKind = policy.parse().map_err(|error| to_python(py, &error))?;
        let settings = Settings {
            policy,
            unit_timeout_s,
            ..Settings::default()
        };
        self.with(|rank| rank.renew(identity, settings));
        Ok(())
    }

    fn enter(&self, now: f64) {
        self.with(|rank| rank.enter(now));
    }

    fn enter_unable(&self, now: f64, reason: &str) {
        self.with(|rank| rank.enter_unable(now, reason));
    }

    fn restore(&self, now: f64, first: u32, records: Vec<Vec<u8>>) -> bool {
        self.with(|rank| rank.restore(now, first, records))
    }

    #[expect(clippy::needless_pass_by_value, reason = "extracted from Python bytes")]
    fn receive(&self, py: Python<'_>, now: f64, from: u32, payload: Vec<u8>) -> PyResult<()> {
        detached(py, || self.with(|rank| rank.receive(now, from, &payload)))
    }

    fn lost(&self, now: f64, rank: u32) {
        self.with(|machine| machine.lost(now, rank));
    }

    fn tick(&self, now: f64) {
        self.with(|rank| rank.tick(now));
    }

    fn take_sends<'py>(&self, py: Python<'py>) -> Vec<(u32, Bound<'py, PyBytes>)> {
        let sends = self.with(Rank::take_sends);
        let bytes = |(to, payload): (u32, Vec<u8>)| (to, PyBytes::new(py, &payload));
        sends.into_iter().map(bytes).collect()
    }

    fn next(&self, now: f64) -> TeamStep {
        TeamStep(self.with(|rank| rank.next(now)))
    }

    fn alive(&self, now: f64) {
        self.with(|rank| rank.alive(now));
    }

    #[pyo3(signature = (now, values, counts, figures = None))]
    fn evaluated(&self, now: f64, values: Vec<f64>, counts: Vec<u64>, figures: Option<Vec<u8>>) {
        let outcome = Outcome {
            values,
            counts,
            figures: figures.unwrap_or_default(),
        };
        self.with(|rank| rank.evaluated(now, outcome));
    }

    /// The unit after the one in work as (kind, step, unit), if it is known already.
    #[getter]
    fn upcoming(&self) -> Option<(u32, u32, u32)> {
        self.with(|rank| rank.upcoming())
            .map(|(round, unit)| (round.kind, round.step, unit))
    }

    fn digest(&self, now: f64, iteration: u32, digest: u64) {
        self.with(|rank| rank.digest(now, iteration, digest));
    }

    fn halt(&self, now: f64) {
        self.with(|rank| rank.halt(now));
    }

    fn resign(&self, now: f64, reason: &str) {
        self.with(|rank| rank.resign(now, reason));
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
        step: u32,
        costs: Vec<f64>,
    ) -> PyResult<()> {
        let round = Round { kind, step };
        self.with(|rank| rank.begin(now, round, &costs))
            .map_err(|error| to_python(py, &error))
    }

    /// Values of each unit, the sums of the counts, and figures by unit; None if the round became void.
    fn take_table<'py>(&self, py: Python<'py>) -> Option<TakenTable<'py>> {
        let table = self.with(Rank::take_table)?;
        let bytes = |(unit, figures): (u32, Vec<u8>)| (unit, PyBytes::new(py, &figures));
        let figures = table.figures.into_iter().map(bytes).collect();
        Some((table.values, table.counts, figures))
    }

    fn publish(&self, now: f64, iteration: u32, payload: Vec<u8>) -> bool {
        self.with(|rank| rank.publish(now, iteration, payload))
    }

    fn lead_anew(&self) {
        self.with(Rank::lead_anew);
    }

    fn set_welcome(&self, now: f64, payload: Vec<u8>) {
        self.with(|rank| rank.set_welcome(now, payload));
    }

    #[expect(clippy::needless_pass_by_value, reason = "extracted from Python bytes")]
    fn note(&self, payload: Vec<u8>) {
        self.with(|rank| rank.note(&payload));
    }

    fn finish(&self, now: f64, payload: Vec<u8>) {
        self.with(|rank| rank.finish(now, payload));
    }

    #[expect(clippy::needless_pass_by_value, reason = "extracted from Python bytes")]
    fn stop(&self, payload: Vec<u8>) {
        self.with(|rank| rank.stop(&payload));
    }

    /// Whether pieces of a record are on their way to this rank, and not late yet.
    #[getter]
    fn expects(&self) -> bool {
        self.with(|rank| rank.expects())
    }

    /// Whether this rank heard that others ended the call.
    #[getter]
    fn over(&self) -> bool {
        self.with(|rank| rank.over())
    }

    #[getter]
    fn leads(&self) -> bool {
        self.with(|rank| rank.leads())
    }

    #[getter]
    fn head(&self) -> u32 {
        self.with(|rank| rank.head())
    }

    /// Lost ranks and why, see `TeamStep.loss`.
    #[getter]
    fn losses(&self) -> BTreeMap<u32, String> {
        self.with(|rank| {
            let losses = rank.losses().iter();
            losses.map(|(rank, loss)| (*rank, told(loss))).collect()
        })
    }

    /// The records it has, from `first` on.
    #[pyo3(signature = (first = 0))]
    fn records<'py>(&self, py: Python<'py>, first: u32) -> Vec<Bound<'py, PyBytes>> {
        let records = self.with(|rank| rank.history().since(first).to_vec());
        let bytes = |record: Vec<u8>| PyBytes::new(py, &record);
        records.into_iter().map(bytes).collect()
    }

    /// Payload bytes (sent, received) so far.
    #[getter]
    fn traffic(&self) -> (u64, u64) {
        self.with(|rank| rank.traffic())
    }

    fn __repr__(&self) -> String {
        self.with(|rank| format!("TeamRank(head={}, losses={:?})", rank.head(), rank.losses()))
    }
}

impl TeamRank {
    fn with<T>(&self, work: impl FnOnce(&mut Rank) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn told(loss: &Loss) -> String {
    match loss {
        Loss::Dead => "dead".to_owned(),
        Loss::Silent => "silent".to_owned(),
        Loss::Resigned(reason) => format!("resigned: {reason}"),
    }
}

impl CoreError for WireError {
    fn class(&self) -> &'static str {
        match self {
            Self::Short | Self::Long(_) | Self::Kind(_) | Self::Range => "CommunicationError",
        }
    }
}
