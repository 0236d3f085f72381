//! The product and the low-rank noise of the rows of a batch, for engines that run many members at once.

use es_core::kernels::{self, Bf16, Dtype, F16, F32, Kernels, LiveType, RowNoise};
use numpy::{Element, IntoPyArray, PyArray3, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::arrays::{readable, writable};
use crate::door::{detached, raise};
use crate::noise::{Any, Noise};
use crate::slices::LowRank;

/// Adds the classes of this file to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<BatchRows>()?;
    m.add_class::<RowFactors>()?;
    m.add_function(wrap_pyfunction!(product, m)?)
}

/// y = x W^T; y (..., out), x (..., in), w (out, in).
#[pyfunction]
fn product(y: Any<'_, '_>, x: Any<'_, '_>, w: Any<'_, '_>) -> PyResult<()> {
    let py = y.py();
    let mut y = writable::<f32>(y, "y")?;
    let (x, w) = (readable::<f32>(x, "x")?, readable::<f32>(w, "w")?);
    let inputs = w.shape().last().copied().unwrap_or(0);
    let (y, x, w) = (y.as_slice_mut()?, x.as_slice()?, w.as_slice()?);
    detached(py, || Kernels::chosen().product(y, x, w, inputs))
}

/// The rows of a batch: the index of each row's pair, and the scale of its noise.
#[pyclass(frozen, module = "es_llm._core")]
struct BatchRows(kernels::BatchRows);

#[pymethods]
impl BatchRows {
    #[new]
    fn new(pairs: Vec<u32>, scales: Vec<f32>) -> Self {
        Self(kernels::BatchRows { pairs, scales })
    }

    fn __len__(&self) -> usize {
        self.0.pairs.len()
    }
}

/// The factors of one matrix for some pairs.
#[pyclass(frozen, module = "es_llm._core")]
struct RowFactors(kernels::RowFactors);

#[pymethods]
impl RowFactors {
    #[new]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "a list of Python becomes a vector"
    )]
    fn new(py: Python<'_>, noise: &Noise, at: &LowRank, pairs: Vec<u32>) -> PyResult<Self> {
        let matrix = at.matrix(*noise);
        detached(py, || Kernels::chosen().factors(matrix, &pairs)).map(Self)
    }

    /// A (pairs, rank, out), 1 / sqrt(rank) included; a copy.
    #[getter]
    fn a<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray3<f32>>> {
        let [pairs, rank, outputs, _] = self.0.shape;
        copied(py, &self.0.a, [pairs, rank, outputs])
    }

    /// B (pairs, rank, in); a copy.
    #[getter]
    fn b<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray3<f32>>> {
        let [pairs, rank, _, inputs] = self.0.shape;
        copied(py, &self.0.b, [pairs, rank, inputs])
    }

    /// y += scale (x B) A^T in each row; `outputs` are the rows of the matrix that y has.
    #[pyo3(signature = (y, x, rows, *, dtype, outputs = None))]
    fn add(
        &self,
        y: Any<'_, '_>,
        x: Any<'_, '_>,
        rows: &BatchRows,
        dtype: &str,
        outputs: Option<(usize, usize)>,
    ) -> PyResult<()> {
        let (first, last) = outputs.unwrap_or((0, self.0.shape[2]));
        add(y, x, self.0.of_rows(&rows.0, first..last), dtype)
    }

    /// y += scale (x A) B^T in each row: for weights that are used as x W.
    #[pyo3(signature = (y, x, rows, *, dtype))]
    fn add_transposed(
        &self,
        y: Any<'_, '_>,
        x: Any<'_, '_>,
        rows: &BatchRows,
        dtype: &str,
    ) -> PyResult<()> {
        add(y, x, self.0.transposed(&rows.0), dtype)
    }

    /// y += scale A[id] B^T in each row, for the ids of an embedding.
    #[pyo3(signature = (y, ids, rows, *, dtype))]
    fn add_embedding(
        &self,
        y: Any<'_, '_>,
        ids: Any<'_, '_>,
        rows: &BatchRows,
        dtype: &str,
    ) -> PyResult<()> {
        let ids = readable::<i64>(ids, "ids")?;
        let ids = ids.as_slice()?;
        match self::dtype(y.py(), dtype)? {
            Dtype::F32 => self.embed::<F32>(y, ids, rows),
            Dtype::Bf16 => self.embed::<Bf16>(y, ids, rows),
            Dtype::F16 => self.embed::<F16>(y, ids, rows),
        }
    }
}

impl RowFactors {
    fn embed<L: LiveType<Bits: Element>>(
        &self,
        y: Any<'_, '_>,
        ids: &[i64],
        rows: &BatchRows,
    ) -> PyResult<()> {
        let py = y.py();
        let mut y = writable::<L::Bits>(y, "y")?;
        let y = y.as_slice_mut()?;
        detached(py, || self.0.add_embedding::<L>(y, ids, &rows.0))
    }
}

fn copied<'py>(
    py: Python<'py>,
    values: &[f32],
    shape: [usize; 3],
) -> PyResult<Bound<'py, PyArray3<f32>>> {
    values.to_vec().into_pyarray(py).reshape(shape)
}

fn add(y: Any<'_, '_>, x: Any<'_, '_>, noise: RowNoise<'_>, dtype: &str) -> PyResult<()> {
    match self::dtype(y.py(), dtype)? {
        Dtype::F32 => add_as::<F32>(y, x, noise),
        Dtype::Bf16 => add_as::<Bf16>(y, x, noise),
        Dtype::F16 => add_as::<F16>(y, x, noise),
    }
}

fn add_as<L: LiveType<Bits: Element>>(
    y: Any<'_, '_>,
    x: Any<'_, '_>,
    noise: RowNoise<'_>,
) -> PyResult<()> {
    let py = y.py();
    let (mut y, x) = (writable::<L::Bits>(y, "y")?, readable::<L::Bits>(x, "x")?);
    let (y, x) = (y.as_slice_mut()?, x.as_slice()?);
    detached(py, || Kernels::chosen().add_low_rank::<L>(y, x, noise))
}

fn dtype(py: Python<'_>, name: &str) -> PyResult<Dtype> {
    Dtype::from_name(name).map_err(|error| raise(py, "KernelError", &error.to_string()))
}
