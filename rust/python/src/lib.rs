//! `es_llm._core`: the Python bindings of `es-core`. Conversions only: one file per core module, and `door.rs` for the GIL and
//! errors. The exception is the watchdog, which must run while another thread holds the GIL.

#![deny(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::unwrap_used
)]

use es_core::fitness::FailurePolicy;
use es_core::kernels::Dtype;
use es_core::schedule::PolicyKind;
use es_core::shaping::RULES;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

mod arrays;
mod door;
mod fitness;
mod journal;
mod kernels;
mod noise;
mod plan;
mod population;
mod rows;
mod slices;
mod team;
mod watchdog;

/// The Rust core: noise, weight kernels, shaping, population, units, team and journal.
#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    door::register(m)?;
    noise::register(m)?;
    kernels::register(m)?;
    population::register(m)?;
    plan::register(m)?;
    rows::register(m)?;
    fitness::register(m)?;
    team::register(m)?;
    journal::register(m)?;
    watchdog::register(m)?;
    register_names(m)
}

/// Adds the names that options accept, from the enums of the core.
fn register_names(m: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = m.py();
    let rules: Vec<_> = RULES.iter().map(|(name, _)| *name).collect();
    m.add("SHAPING_RULES", PyTuple::new(py, rules)?)?;
    let policies = FailurePolicy::ALL.map(FailurePolicy::name);
    m.add("FAILURE_POLICIES", PyTuple::new(py, policies)?)?;
    m.add("DTYPES", PyTuple::new(py, Dtype::ALL.map(Dtype::name))?)?;
    let assignments = PolicyKind::ALL.map(PolicyKind::name);
    m.add("ASSIGNMENTS", PyTuple::new(py, assignments)?)
}
