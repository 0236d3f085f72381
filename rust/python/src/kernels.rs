//! Weight kernels: numpy arrays in, slices out.

use es_core::kernels::{self, Bf16, Dtype, F16, F32, KernelError, Kernels, Live, LiveType, Update};
use es_core::noise::NoiseAddress;
use numpy::Element;
use pyo3::prelude::*;

use crate::arrays::{apart, readable, writable};
use crate::door::{CoreError, detached, to_python};
use crate::noise::{Any, address, element_word, word, words};

/// Adds this file's functions to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<UpdateReport>()?;
    m.add_function(wrap_pyfunction!(fill, m)?)?;
    m.add_function(wrap_pyfunction!(perturb_into, m)?)?;
    m.add_function(wrap_pyfunction!(round_into, m)?)?;
    m.add_function(wrap_pyfunction!(accumulate, m)?)?;
    m.add_function(wrap_pyfunction!(digest, m)?)?;
    m.add_function(wrap_pyfunction!(set_kernel_threads, m)?)?;
    m.add_function(wrap_pyfunction!(kernel_threads, m)?)?;
    Ok(())
}

impl CoreError for KernelError {
    fn class(&self) -> &'static str {
        match self {
            Self::Address(error) => error.class(),
            Self::Length { .. }
            | Self::Coefficients { .. }
            | Self::Dtype(_)
            | Self::Path(_)
            | Self::ThreadCount(_)
            | Self::Threads(_) => "KernelError",
        }
    }
}

/// Standard normals at elements [element, element + out.size) of one tensor's noise.
#[pyfunction]
#[pyo3(signature = (out, *, run_seed, iteration, pair, tensor, element = 0))]
fn fill(
    out: Any<'_, '_>,
    run_seed: Any<'_, '_>,
    iteration: Any<'_, '_>,
    pair: Any<'_, '_>,
    tensor: Any<'_, '_>,
    #[pyo3(from_py_with = element_word)] element: u64,
) -> PyResult<()> {
    let py = out.py();
    let address = address(run_seed, iteration, Some(pair), tensor, element)?;
    let mut out = writable::<f32>(out, "out")?;
    let out = out.as_slice_mut()?;
    detached(py, || Kernels::best().fill(address, out))
}

/// live = round(fma(scale, noise, master)), to the type `dtype`.
#[pyfunction]
#[pyo3(signature = (live, master, *, dtype, scale, run_seed, iteration, pair, tensor, element = 0))]
#[allow(
    clippy::too_many_arguments,
    reason = "the words of the address, by keyword"
)]
fn perturb_into(
    live: Any<'_, '_>,
    master: Any<'_, '_>,
    dtype: &str,
    scale: f32,
    run_seed: Any<'_, '_>,
    iteration: Any<'_, '_>,
    pair: Any<'_, '_>,
    tensor: Any<'_, '_>,
    #[pyo3(from_py_with = element_word)] element: u64,
) -> PyResult<()> {
    let noise = Some((
        scale,
        address(run_seed, iteration, Some(pair), tensor, element)?,
    ));
    write(live, master, dtype, noise)
}

/// live = round(master), to nearest even: the unperturbed weights.
#[pyfunction]
#[pyo3(signature = (live, master, *, dtype))]
fn round_into(live: Any<'_, '_>, master: Any<'_, '_>, dtype: &str) -> PyResult<()> {
    write(live, master, dtype, None)
}

/// master += the sum over the pairs, in order, of coefficient * noise(pair).
#[pyfunction]
#[pyo3(signature = (master, *, dtype, pairs, coefficients, run_seed, iteration, tensor, element = 0))]
#[allow(
    clippy::too_many_arguments,
    reason = "the words of the address, by keyword"
)]
fn accumulate(
    master: Any<'_, '_>,
    dtype: &str,
    pairs: Any<'_, '_>,
    coefficients: Any<'_, '_>,
    run_seed: Any<'_, '_>,
    iteration: Any<'_, '_>,
    tensor: Any<'_, '_>,
    #[pyo3(from_py_with = element_word)] element: u64,
) -> PyResult<UpdateReport> {
    let py = master.py();
    let address = address(run_seed, iteration, None, tensor, element)?;
    let dtype = Dtype::from_name(dtype).map_err(|error| to_python(py, &error))?;
    let pairs = words(pairs, "pairs")?;
    let coefficients = readable::<f32>(coefficients, "coefficients")?;
    let mut master = writable::<f32>(master, "master")?;
    let update = Update {
        address,
        pairs: &pairs,
        coefficients: coefficients.as_slice()?,
        dtype,
    };
    let master = master.as_slice_mut()?;
    apart(
        py,
        ("coefficients", update.coefficients),
        ("master", master),
    )?;
    detached(py, || Kernels::best().accumulate(master, update)).map(UpdateReport)
}

/// Order-free 64-bit digest of the weights' bits.
#[pyfunction]
#[pyo3(signature = (master, *, tensor, element = 0))]
fn digest(
    master: Any<'_, '_>,
    tensor: Any<'_, '_>,
    #[pyo3(from_py_with = element_word)] element: u64,
) -> PyResult<u64> {
    let py = master.py();
    let tensor = word(tensor, "tensor")?;
    let master = readable::<f32>(master, "master")?;
    let master = master.as_slice()?;
    detached(py, || Kernels::best().digest(master, tensor, element))
}

/// Threads that the kernels use (0: one per core). Never changes the bits.
#[pyfunction]
fn set_kernel_threads(py: Python<'_>, count: usize) -> PyResult<()> {
    kernels::set_kernel_threads(count).map_err(|error| to_python(py, &error))
}

/// Threads that the kernels use.
#[pyfunction]
fn kernel_threads() -> usize {
    kernels::kernel_threads()
}

/// What an update did to one tensor or to several (reports add up with `+`).
#[pyclass(frozen, module = "es_llm._core")]
struct UpdateReport(kernels::UpdateReport);

#[pymethods]
impl UpdateReport {
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

type Noise = Option<(f32, NoiseAddress)>;

fn write(live: Any<'_, '_>, master: Any<'_, '_>, dtype: &str, noise: Noise) -> PyResult<()> {
    match Dtype::from_name(dtype).map_err(|error| to_python(live.py(), &error))? {
        Dtype::F32 => write_as::<F32>(live, master, noise, |live| Live::F32(live)),
        Dtype::Bf16 => write_as::<Bf16>(live, master, noise, |live| Live::Bf16(live)),
        Dtype::F16 => write_as::<F16>(live, master, noise, |live| Live::F16(live)),
    }
}

fn write_as<L: LiveType<Bits: Element>>(
    live: Any<'_, '_>,
    master: Any<'_, '_>,
    noise: Noise,
    wrap: for<'a> fn(&'a mut [L::Bits]) -> Live<'a>,
) -> PyResult<()> {
    let py = live.py();
    let (mut live, master) = (
        writable::<L::Bits>(live, "live")?,
        readable::<f32>(master, "master")?,
    );
    let (live, master) = (live.as_slice_mut()?, master.as_slice()?);
    apart(py, ("live", live), ("master", master))?;
    detached(py, || match noise {
        Some((scale, address)) => Kernels::best().perturb_into(wrap(live), master, scale, address),
        None => Kernels::best().round_into(wrap(live), master),
    })
}
