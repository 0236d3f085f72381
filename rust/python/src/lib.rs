//! `es_llm._core`: the Python face of `es-core`. Conversions only; one file per core module, one door for the GIL and
//! for errors (`door.rs`). The watchdog alone is more: it must run while another thread holds the GIL.

#![deny(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::unwrap_used
)]

use pyo3::prelude::*;

mod arrays;
mod door;
mod fitness;
mod journal;
mod kernels;
mod noise;
mod population;
mod schedule;
mod team;
mod watchdog;

/// The Rust core: noise, weight kernels, shaping, population, units, team and journal.
#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    door::register(m)?;
    noise::register(m)?;
    kernels::register(m)?;
    population::register(m)?;
    fitness::register(m)?;
    schedule::register(m)?;
    team::register(m)?;
    journal::register(m)?;
    watchdog::register(m)?;
    Ok(())
}
