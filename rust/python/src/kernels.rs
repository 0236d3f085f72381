//! Weight kernels: numpy arrays in, slices out.

use es_core::kernels::{
    self, At as CoreAt, Bf16, Dtype, F16, F32, KernelError, Kernels, Live, LiveType, Path,
    Terms as CoreTerms,
};
use numpy::Element;
use pyo3::prelude::*;

use crate::arrays::{apart, readable, writable};
use crate::door::{CoreError, detached, raise, unfailing};
use crate::noise::{Any, Noise, Terms, in_range, kind};
use crate::slices::{At, Slice};

/// Adds the functions of this file to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<UpdateReport>()?;
    m.add_function(wrap_pyfunction!(fill, m)?)?;
    m.add_function(wrap_pyfunction!(perturb, m)?)?;
    m.add_function(wrap_pyfunction!(round, m)?)?;
    m.add_function(wrap_pyfunction!(accumulate, m)?)?;
    m.add_function(wrap_pyfunction!(compare, m)?)?;
    m.add_function(wrap_pyfunction!(digest, m)?)?;
    m.add_function(wrap_pyfunction!(set_kernel_path, m)?)?;
    m.add_function(wrap_pyfunction!(kernel_path, m)?)?;
    m.add_function(wrap_pyfunction!(kernel_paths, m)?)?;
    m.add_function(wrap_pyfunction!(set_kernel_threads, m)?)?;
    m.add_function(wrap_pyfunction!(kernel_threads, m)?)?;
    Ok(())
}

impl CoreError for KernelError {
    fn class(&self) -> &'static str {
        match self {
            Self::Address(error) => error.class(),
            Self::Length { .. }
            | Self::Rows { .. }
            | Self::Rank(_)
            | Self::Shape { .. }
            | Self::Coefficients { .. }
            | Self::Batch(_)
            | Self::Dtype(_)
            | Self::Path(_)
            | Self::PathName(_)
            | Self::ThreadCount(_)
            | Self::Threads(_) => "KernelError",
        }
    }
}

/// out = noise: float32 standard normals at the values of a slice.
#[pyfunction]
#[pyo3(signature = (out, noise, at, kind = "dense"))]
fn fill(out: Any<'_, '_>, noise: &Noise, at: &Slice, kind: &str) -> PyResult<()> {
    let py = out.py();
    let kind = self::kind(py, kind)?;
    let mut out = writable::<f32>(out, "out")?;
    let out = out.as_slice_mut()?;
    require_size(py, "out", out.len(), at.size)?;
    let position = at.position(*noise);
    detached(py, || Kernels::chosen().fill(kind, position, out))
}

/// live = round(master + scale * noise), to the type `dtype`; returns the number of live values that are NaN or infinite.
#[pyfunction]
#[pyo3(signature = (live, master, noise, scale, at, *, dtype))]
fn perturb(
    live: Any<'_, '_>,
    master: Any<'_, '_>,
    noise: &Noise,
    scale: f32,
    at: At,
    dtype: &str,
) -> PyResult<u64> {
    let noise = Some((scale, at.core(*noise)));
    write(live, master, dtype, noise, Some(at.size()))
}

/// live = round(master), to nearest even: the unperturbed weights; returns the number of live values that are NaN or
/// infinite.
#[pyfunction]
#[pyo3(signature = (live, master, *, dtype))]
fn round(live: Any<'_, '_>, master: Any<'_, '_>, dtype: &str) -> PyResult<u64> {
    write(live, master, dtype, None, None)
}

/// master += the sum over the terms, in order, of coefficient * noise(pair).
#[pyfunction]
#[pyo3(signature = (master, terms, at, *, dtype))]
fn accumulate(master: Any<'_, '_>, terms: &Terms, at: At, dtype: &str) -> PyResult<UpdateReport> {
    let py = master.py();
    let dtype = detached(py, || Dtype::from_name(dtype))?;
    let mut master = writable::<f32>(master, "master")?;
    let master = master.as_slice_mut()?;
    require_size(py, "master", master.len(), at.size())?;
    let at = at.core(terms.noise());
    let terms = CoreTerms {
        pairs: &terms.pairs,
        coefficients: &terms.coefficients,
        dtype,
    };
    detached(py, || Kernels::chosen().accumulate(master, at, terms)).map(UpdateReport)
}

/// The report of an update of weights that an optimizer has made.
#[pyfunction]
#[pyo3(signature = (before, after, *, dtype))]
fn compare(before: Any<'_, '_>, after: Any<'_, '_>, dtype: &str) -> PyResult<UpdateReport> {
    let py = before.py();
    let dtype = detached(py, || Dtype::from_name(dtype))?;
    let (before, after) = (
        readable::<f32>(before, "before")?,
        readable::<f32>(after, "after")?,
    );
    let (before, after) = (before.as_slice()?, after.as_slice()?);
    detached(py, || Kernels::chosen().compare(before, after, dtype)).map(UpdateReport)
}

/// 64-bit digest of the bits of the weights; the order of the elements doesn't count.
#[pyfunction]
fn digest(master: Any<'_, '_>, at: &Slice) -> PyResult<u64> {
    let py = master.py();
    let master = readable::<f32>(master, "master")?;
    let master = master.as_slice()?;
    require_size(py, "master", master.len(), at.size)?;
    let position = at.position(Noise::default());
    detached(py, || Kernels::chosen().digest(master, position))
}

/// Sets the instruction set of the kernels, by name; None means the fastest. Never changes the bits.
#[pyfunction]
#[pyo3(signature = (name))]
fn set_kernel_path(py: Python<'_>, name: Option<&str>) -> PyResult<()> {
    detached(py, || kernels::set_kernel_path(name))
}

/// Name of the instruction set that the kernels use.
#[pyfunction]
fn kernel_path(py: Python<'_>) -> PyResult<&'static str> {
    unfailing(py, || Kernels::chosen().path().name())
}

/// Names of the instruction sets of this machine, slowest first.
#[pyfunction]
fn kernel_paths(py: Python<'_>) -> PyResult<Vec<&'static str>> {
    unfailing(py, || {
        let paths = Path::ALL.into_iter().filter(|path| path.is_available());
        paths.map(Path::name).collect()
    })
}

/// Sets the number of threads of the kernels; 0 means one per core. Never changes the bits.
#[pyfunction]
fn set_kernel_threads(py: Python<'_>, count: Any<'_, '_>) -> PyResult<()> {
    let count = in_range(count, "KernelError", || {
        format!("kernel threads must be an integer >= 0, got {count}")
    })?;
    detached(py, || kernels::set_kernel_threads(count))
}

/// The number of threads that the kernels use.
#[pyfunction]
fn kernel_threads(py: Python<'_>) -> PyResult<usize> {
    unfailing(py, kernels::kernel_threads)
}

/// The effect of an update on one tensor or on several (reports add up with `+`).
#[pyclass(frozen, module = "es_llm._core")]
struct UpdateReport(kernels::UpdateReport);

#[pymethods]
impl UpdateReport {
    #[new]
    #[pyo3(signature = (*, elements, moved, nonfinite, intended_square, actual_square, product))]
    fn new(
        elements: u64,
        moved: u64,
        nonfinite: u64,
        intended_square: f64,
        actual_square: f64,
        product: f64,
    ) -> Self {
        Self(kernels::UpdateReport {
            elements,
            moved,
            nonfinite,
            intended_square,
            actual_square,
            product,
        })
    }

    #[getter]
    fn elements(&self) -> u64 {
        self.0.elements
    }

    /// Elements whose rounded live value changed.
    #[getter]
    fn moved(&self) -> u64 {
        self.0.moved
    }

    /// L2 norm of the intended update.
    #[getter]
    fn update_norm(&self) -> f64 {
        self.0.update_norm()
    }

    /// Cosine between the intended update and the change of the rounded live weights; NaN if either is zero.
    #[getter]
    fn cosine(&self) -> f64 {
        self.0.cosine()
    }

    /// Elements that are NaN or infinite after the update.
    #[getter]
    fn nonfinite(&self) -> u64 {
        self.0.nonfinite
    }

    fn __add__(&self, other: &Self) -> Self {
        Self(self.0 + other.0)
    }

    fn __repr__(&self) -> String {
        let (norm, cosine) = (self.0.update_norm(), self.0.cosine());
        let kernels::UpdateReport {
            elements,
            moved,
            nonfinite,
            ..
        } = self.0;
        format!(
            "UpdateReport(elements={elements}, moved={moved}, update_norm={norm:.6e}, cosine={cosine:.6}, \
             nonfinite={nonfinite})"
        )
    }
}

/// live = round(master + scale * noise), or round(master) without noise.
fn write(
    live: Any<'_, '_>,
    master: Any<'_, '_>,
    dtype: &str,
    noise: Option<(f32, CoreAt)>,
    size: Option<usize>,
) -> PyResult<u64> {
    match detached(live.py(), || Dtype::from_name(dtype))? {
        Dtype::F32 => write_as::<F32>(live, master, noise, size, |live| Live::F32(live)),
        Dtype::Bf16 => write_as::<Bf16>(live, master, noise, size, |live| Live::Bf16(live)),
        Dtype::F16 => write_as::<F16>(live, master, noise, size, |live| Live::F16(live)),
    }
}

fn write_as<L: LiveType<Bits: Element>>(
    live: Any<'_, '_>,
    master: Any<'_, '_>,
    noise: Option<(f32, CoreAt)>,
    size: Option<usize>,
    wrap: for<'a> fn(&'a mut [L::Bits]) -> Live<'a>,
) -> PyResult<u64> {
    let py = live.py();
    let (mut live, master) = (
        writable::<L::Bits>(live, "live")?,
        readable::<f32>(master, "master")?,
    );
    let (live, master) = (live.as_slice_mut()?, master.as_slice()?);
    if let Some(size) = size {
        require_size(py, "master", master.len(), size)?;
    }
    apart(py, ("live", live), ("master", master))?;
    let live = wrap(live);
    detached(py, || match noise {
        None => Kernels::chosen().round(live, master),
        Some((scale, at)) => Kernels::chosen().perturb(live, master, scale, at),
    })
}

fn require_size(py: Python<'_>, name: &str, values: usize, expected: usize) -> PyResult<()> {
    if values == expected {
        return Ok(());
    }
    let message = format!("`{name}` must have the {expected} values of its slice, got {values}");
    Err(raise(py, "KernelError", &message))
}
