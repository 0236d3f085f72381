//! Noise and weight kernels.

use pyo3::prelude::*;

/// Adds this file's functions to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("NOISE_VERSION", es_core::noise::NOISE_VERSION)?;
    Ok(())
}
