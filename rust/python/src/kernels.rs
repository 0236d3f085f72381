//! Weight kernels: numpy arrays in, slices out.

use es_core::kernels::{
    self, Bf16, Dtype, F16, F32, KernelError, Kernels, Live, LiveType, LowRank, LowRankUpdate,
    MAX_RANK, Path, Place, Update,
};
use es_core::noise::NoiseAddress;
use numpy::{Element, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::arrays::{apart, checked, readable, writable};
use crate::door::{CoreError, detached, raise, to_python};
use crate::noise::{
    Any, address, column_word, element_word, in_range, kind, row_word, word, words,
};

/// Adds this file's functions to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("MAX_RANK", MAX_RANK)?;
    m.add_class::<UpdateReport>()?;
    m.add_function(wrap_pyfunction!(fill, m)?)?;
    m.add_function(wrap_pyfunction!(perturb_into, m)?)?;
    m.add_function(wrap_pyfunction!(round_into, m)?)?;
    m.add_function(wrap_pyfunction!(accumulate, m)?)?;
    m.add_function(wrap_pyfunction!(perturb_low_rank_into, m)?)?;
    m.add_function(wrap_pyfunction!(accumulate_low_rank, m)?)?;
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
            | Self::Dtype(_)
            | Self::Path(_)
            | Self::PathName(_)
            | Self::ThreadCount(_)
            | Self::Threads(_) => "KernelError",
        }
    }
}

/// Standard normals at elements [element, element + out.size) of one tensor's noise.
#[pyfunction]
#[pyo3(signature = (out, *, run_seed, iteration, pair, tensor, element = 0, kind = "dense"))]
fn fill(
    out: Any<'_, '_>,
    run_seed: Any<'_, '_>,
    iteration: Any<'_, '_>,
    pair: Any<'_, '_>,
    tensor: Any<'_, '_>,
    #[pyo3(from_py_with = element_word)] element: u64,
    kind: &str,
) -> PyResult<()> {
    let py = out.py();
    let kind = self::kind(py, kind)?;
    let address = address(run_seed, iteration, Some(pair), tensor, element)?;
    let mut out = writable::<f32>(out, "out")?;
    let out = out.as_slice_mut()?;
    detached(py, || chosen().fill_of(kind, address, out))
}

/// live = round(fma(scale, noise, master)), to the type `dtype`; returns how many live values are NaN or infinite.
#[pyfunction]
#[pyo3(signature = (
    live, master, *, dtype, scale, run_seed, iteration, pair, tensor, element = 0, columns = None, stride = None
))]
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
    columns: Option<Any<'_, '_>>,
    stride: Option<Any<'_, '_>>,
) -> PyResult<u64> {
    let address = address(run_seed, iteration, Some(pair), tensor, element)?;
    let place = place(live.py(), address, columns, stride)?;
    write(live, master, dtype, Source::Dense(scale, place))
}

/// live = round(master + (scale / sqrt(rank)) A B^T) for a block of a matrix; returns how many live values are NaN or
/// infinite.
#[pyfunction]
#[pyo3(signature = (
    live, master, *, dtype, rank, scale, run_seed, iteration, pair, tensor, row = 0, column = 0
))]
#[allow(
    clippy::too_many_arguments,
    reason = "the words of the address, by keyword"
)]
fn perturb_low_rank_into(
    live: Any<'_, '_>,
    master: Any<'_, '_>,
    dtype: &str,
    #[pyo3(from_py_with = rank)] rank: usize,
    scale: f32,
    run_seed: Any<'_, '_>,
    iteration: Any<'_, '_>,
    pair: Any<'_, '_>,
    tensor: Any<'_, '_>,
    #[pyo3(from_py_with = row_word)] row: u64,
    #[pyo3(from_py_with = column_word)] column: u64,
) -> PyResult<u64> {
    let matrix = LowRank {
        address: address(run_seed, iteration, Some(pair), tensor, 0)?,
        rank,
        first: [row, column],
        shape: matrix_shape(master, "master")?,
    };
    write(live, master, dtype, Source::LowRank(scale, matrix))
}

/// live = round(master), to nearest even: the unperturbed weights; returns how many live values are NaN or infinite.
#[pyfunction]
#[pyo3(signature = (live, master, *, dtype))]
fn round_into(live: Any<'_, '_>, master: Any<'_, '_>, dtype: &str) -> PyResult<u64> {
    write(live, master, dtype, Source::Nothing)
}

/// master += the sum over the pairs, in order, of coefficient * noise(pair).
#[pyfunction]
#[pyo3(signature = (
    master, *, dtype, pairs, coefficients, run_seed, iteration, tensor, element = 0, columns = None, stride = None
))]
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
    columns: Option<Any<'_, '_>>,
    stride: Option<Any<'_, '_>>,
) -> PyResult<UpdateReport> {
    let address = address(run_seed, iteration, None, tensor, element)?;
    let place = place(master.py(), address, columns, stride)?;
    update(master, dtype, pairs, coefficients, |master, terms| {
        chosen().accumulate(
            master,
            Update {
                place,
                pairs: terms.pairs,
                coefficients: terms.coefficients,
                dtype: terms.dtype,
            },
        )
    })
}

/// master += the sum over the pairs, in order, of (coefficient / sqrt(rank)) A B^T, for a block of a matrix.
#[pyfunction]
#[pyo3(signature = (
    master, *, dtype, rank, pairs, coefficients, run_seed, iteration, tensor, row = 0, column = 0
))]
#[allow(
    clippy::too_many_arguments,
    reason = "the words of the address, by keyword"
)]
fn accumulate_low_rank(
    master: Any<'_, '_>,
    dtype: &str,
    #[pyo3(from_py_with = rank)] rank: usize,
    pairs: Any<'_, '_>,
    coefficients: Any<'_, '_>,
    run_seed: Any<'_, '_>,
    iteration: Any<'_, '_>,
    tensor: Any<'_, '_>,
    #[pyo3(from_py_with = row_word)] row: u64,
    #[pyo3(from_py_with = column_word)] column: u64,
) -> PyResult<UpdateReport> {
    let matrix = LowRank {
        address: address(run_seed, iteration, None, tensor, 0)?,
        rank,
        first: [row, column],
        shape: matrix_shape(master, "master")?,
    };
    update(master, dtype, pairs, coefficients, |master, terms| {
        chosen().accumulate_low_rank(
            master,
            LowRankUpdate {
                matrix,
                pairs: terms.pairs,
                coefficients: terms.coefficients,
                dtype: terms.dtype,
            },
        )
    })
}

/// Order-free 64-bit digest of the weights' bits.
#[pyfunction]
#[pyo3(signature = (master, *, tensor, element = 0, columns = None, stride = None))]
fn digest(
    master: Any<'_, '_>,
    tensor: Any<'_, '_>,
    #[pyo3(from_py_with = element_word)] element: u64,
    columns: Option<Any<'_, '_>>,
    stride: Option<Any<'_, '_>>,
) -> PyResult<u64> {
    let py = master.py();
    let address = NoiseAddress {
        tensor: word(tensor, "tensor")?,
        element,
        ..NoiseAddress::default()
    };
    let place = place(py, address, columns, stride)?;
    let master = readable::<f32>(master, "master")?;
    let master = master.as_slice()?;
    detached(py, || chosen().digest(master, place))
}

/// Instruction set that the kernels use from now on, by name; None for the fastest. Never changes the bits.
#[pyfunction]
#[pyo3(signature = (name))]
fn set_kernel_path(py: Python<'_>, name: Option<&str>) -> PyResult<()> {
    kernels::set_kernel_path(name).map_err(|error| to_python(py, &error))
}

/// Instruction set that the kernels use.
#[pyfunction]
fn kernel_path() -> &'static str {
    chosen().path().name()
}

/// Instruction sets of this machine, slowest first.
#[pyfunction]
fn kernel_paths() -> Vec<&'static str> {
    Path::ALL
        .into_iter()
        .filter(|path| path.is_available())
        .map(Path::name)
        .collect()
}

/// The argument `rank`, for `from_py_with`.
fn rank(value: Any<'_, '_>) -> PyResult<usize> {
    in_range(value, "KernelError", || {
        format!("`rank` must be in [1, {MAX_RANK}], got {value}")
    })
}

/// Threads that the kernels use (0: one per core). Never changes the bits.
#[pyfunction]
fn set_kernel_threads(py: Python<'_>, count: Any<'_, '_>) -> PyResult<()> {
    let count = in_range(count, "KernelError", || {
        format!("kernel threads must be an integer >= 0, got {count}")
    })?;
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

/// What is added to the master before it is rounded.
#[derive(Clone, Copy)]
enum Source {
    Nothing,
    Dense(f32, Place),
    LowRank(f32, LowRank),
}

fn write(live: Any<'_, '_>, master: Any<'_, '_>, dtype: &str, source: Source) -> PyResult<u64> {
    match Dtype::from_name(dtype).map_err(|error| to_python(live.py(), &error))? {
        Dtype::F32 => write_as::<F32>(live, master, source, |live| Live::F32(live)),
        Dtype::Bf16 => write_as::<Bf16>(live, master, source, |live| Live::Bf16(live)),
        Dtype::F16 => write_as::<F16>(live, master, source, |live| Live::F16(live)),
    }
}

fn write_as<L: LiveType<Bits: Element>>(
    live: Any<'_, '_>,
    master: Any<'_, '_>,
    source: Source,
    wrap: for<'a> fn(&'a mut [L::Bits]) -> Live<'a>,
) -> PyResult<u64> {
    let py = live.py();
    let (mut live, master) = (
        writable::<L::Bits>(live, "live")?,
        readable::<f32>(master, "master")?,
    );
    let (live, master) = (live.as_slice_mut()?, master.as_slice()?);
    apart(py, ("live", live), ("master", master))?;
    let live = wrap(live);
    detached(py, || match source {
        Source::Nothing => chosen().round_into(live, master),
        Source::Dense(scale, place) => chosen().perturb_into(live, master, scale, place),
        Source::LowRank(scale, matrix) => {
            chosen().perturb_low_rank_into(live, master, scale, matrix)
        }
    })
}

/// What an update adds up.
struct Terms<'a> {
    pairs: &'a [u32],
    coefficients: &'a [f32],
    dtype: Dtype,
}

fn update(
    master: Any<'_, '_>,
    dtype: &str,
    pairs: Any<'_, '_>,
    coefficients: Any<'_, '_>,
    kernel: impl FnOnce(&mut [f32], Terms<'_>) -> Result<kernels::UpdateReport, KernelError> + Send,
) -> PyResult<UpdateReport> {
    let py = master.py();
    let dtype = Dtype::from_name(dtype).map_err(|error| to_python(py, &error))?;
    let pairs = words(pairs, "pairs")?;
    let coefficients = readable::<f32>(coefficients, "coefficients")?;
    if coefficients.ndim() != 1 {
        let shape = coefficients.shape();
        let message = format!("`coefficients` must have one dimension, got shape {shape:?}");
        return Err(raise(py, "KernelError", &message));
    }
    let mut master = writable::<f32>(master, "master")?;
    let terms = Terms {
        pairs: &pairs,
        coefficients: coefficients.as_slice()?,
        dtype,
    };
    let master = master.as_slice_mut()?;
    apart(py, ("coefficients", terms.coefficients), ("master", master))?;
    detached(py, || kernel(master, terms)).map(UpdateReport)
}

/// The kernels on the chosen instruction set.
fn chosen() -> Kernels {
    Kernels::chosen()
}

/// The address with its rows; `columns` and `stride` come together.
fn place(
    py: Python<'_>,
    address: NoiseAddress,
    columns: Option<Any<'_, '_>>,
    stride: Option<Any<'_, '_>>,
) -> PyResult<Place> {
    match (columns, stride) {
        (None, None) => Ok(Place::run(address)),
        (Some(columns), Some(stride)) => Ok(Place {
            address,
            columns: word(columns, "columns")?,
            stride: word(stride, "stride")?,
        }),
        _ => Err(raise(
            py,
            "KernelError",
            "`columns` and `stride` must be given together",
        )),
    }
}

/// The shape of a matrix.
fn matrix_shape(array: Any<'_, '_>, name: &str) -> PyResult<[usize; 2]> {
    let array = checked::<f32>(array, name)?;
    let shape = array.shape();
    <[usize; 2]>::try_from(shape).map_err(|_| {
        let message = format!("`{name}` must be a matrix for low-rank noise, got shape {shape:?}");
        raise(array.py(), "KernelError", &message)
    })
}
