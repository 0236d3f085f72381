//! Noise and weight kernels: numpy arrays in, slices out, and the words of a noise address checked by name.

use es_core::kernels::{self, Bf16, Dtype, F16, F32, KernelError, Kernels, Live, LiveType, Update};
use es_core::noise::{self, NoiseAddress, NoiseError};
use numpy::{Element, PyArrayDescrMethods, PyArrayDyn, PyReadonlyArrayDyn, PyReadwriteArrayDyn};
use numpy::{PyArrayMethods, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;

use crate::door::{CoreError, detached, raise, to_python};

type Any<'a, 'py> = &'a Bound<'py, PyAny>;

/// Adds this file's functions to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("NOISE_VERSION", noise::NOISE_VERSION)?;
    m.add("MAX_TENSORS", noise::MAX_TENSORS)?;
    m.add("MAX_ELEMENTS", noise::MAX_ELEMENTS)?;
    m.add_class::<UpdateReport>()?;
    m.add_function(wrap_pyfunction!(philox4x32, m)?)?;
    m.add_function(wrap_pyfunction!(fill, m)?)?;
    m.add_function(wrap_pyfunction!(perturb_into, m)?)?;
    m.add_function(wrap_pyfunction!(round_into, m)?)?;
    m.add_function(wrap_pyfunction!(accumulate, m)?)?;
    m.add_function(wrap_pyfunction!(digest, m)?)?;
    m.add_function(wrap_pyfunction!(set_kernel_threads, m)?)?;
    m.add_function(wrap_pyfunction!(kernel_threads, m)?)?;
    Ok(())
}

impl CoreError for NoiseError {
    fn class(&self) -> &'static str {
        match self {
            Self::Tensor(_) | Self::Element { .. } => "NoiseAddressError",
        }
    }
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

/// Philox4x32-10 of four 32-bit counter words under two key words (Salmon et al., SC11).
#[pyfunction]
fn philox4x32(counter: Any<'_, '_>, key: Any<'_, '_>) -> PyResult<(u32, u32, u32, u32)> {
    let (counter, key) = (words(counter, "counter")?, words(key, "key")?);
    let (Ok(counter), Ok(key)) = (<[u32; 4]>::try_from(counter), <[u32; 2]>::try_from(key)) else {
        return Err(pyo3::exceptions::PyValueError::new_err(
            "`counter` must have 4 words and `key` 2",
        ));
    };
    Ok(noise::philox4x32(counter, key).into())
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

fn address(
    run_seed: Any<'_, '_>,
    iteration: Any<'_, '_>,
    pair: Option<Any<'_, '_>>,
    tensor: Any<'_, '_>,
    element: u64,
) -> PyResult<NoiseAddress> {
    Ok(NoiseAddress {
        run_seed: word(run_seed, "run_seed")?,
        iteration: word(iteration, "iteration")?,
        pair: pair.map_or(Ok(0), |pair| word(pair, "pair"))?,
        tensor: word(tensor, "tensor")?,
        element,
    })
}

fn element_word(value: Any<'_, '_>) -> PyResult<u64> {
    word(value, "element")
}

/// One unsigned word of an address; out of its range is a `NoiseAddressError`.
fn word<'py, T>(value: &Bound<'py, PyAny>, name: &str) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    let py = value.py();
    value.extract().map_err(|error: PyErr| {
        if !error.is_instance_of::<PyOverflowError>(py) {
            return error;
        }
        let width = 8 * size_of::<T>();
        raise(
            py,
            "NoiseAddressError",
            &format!("`{name}` must be in [0, 2**{width}), got {value}"),
        )
    })
}

fn words(values: Any<'_, '_>, name: &str) -> PyResult<Vec<u32>> {
    values
        .try_iter()?
        .map(|value| word(&value?, name))
        .collect()
}

fn readable<'py, T: Element>(
    array: Any<'_, 'py>,
    name: &str,
) -> PyResult<PyReadonlyArrayDyn<'py, T>> {
    let checked = checked::<T>(array, name)?;
    checked
        .try_readonly()
        .map_err(|error| refuse(array.py(), &format!("can't read `{name}`: {error}")))
}

fn writable<'py, T: Element>(
    array: Any<'_, 'py>,
    name: &str,
) -> PyResult<PyReadwriteArrayDyn<'py, T>> {
    let checked = checked::<T>(array, name)?;
    checked
        .try_readwrite()
        .map_err(|error| refuse(array.py(), &format!("can't write `{name}`: {error}")))
}

/// The array, if it has this dtype, is C-contiguous and lies where such values may lie.
fn checked<'a, 'py, T: Element>(
    array: Any<'a, 'py>,
    name: &str,
) -> PyResult<&'a Bound<'py, PyArrayDyn<T>>> {
    let py = array.py();
    let expected = T::get_dtype(py);
    let Ok(untyped) = array.cast::<PyUntypedArray>() else {
        let class = array.get_type();
        return Err(refuse(
            py,
            &format!("`{name}` must be a numpy array of {expected}, got {class}"),
        ));
    };
    let dtype = untyped.dtype();
    if !dtype.is_equiv_to(&expected) {
        return Err(refuse(
            py,
            &format!("`{name}` must be an array of {expected}, got {dtype}"),
        ));
    }
    let typed = array.cast::<PyArrayDyn<T>>()?;
    if !untyped.is_c_contiguous() {
        return Err(refuse(
            py,
            &format!(
                "`{name}` must be contiguous (C order), got shape {:?}",
                untyped.shape()
            ),
        ));
    }
    if !typed.data().is_aligned() {
        return Err(refuse(
            py,
            &format!(
                "`{name}` must be aligned to its {}-byte values",
                size_of::<T>()
            ),
        ));
    }
    Ok(typed)
}

/// Refuses two slices that share memory.
fn apart<A, B>(py: Python<'_>, (name, a): (&str, &[A]), (other, b): (&str, &[B])) -> PyResult<()> {
    let (a, b) = (a.as_ptr_range(), b.as_ptr_range());
    if a.start.addr() < b.end.addr() && b.start.addr() < a.end.addr() {
        return Err(refuse(
            py,
            &format!("`{name}` and `{other}` must not share memory"),
        ));
    }
    Ok(())
}

fn refuse(py: Python<'_>, message: &str) -> PyErr {
    raise(py, "KernelError", message)
}
