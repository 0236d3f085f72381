//! The positions of weights in their tensor: `Slice` and `LowRank`. The core checks a position once, when it is created.

use es_core::kernels::{At as CoreAt, LowRank as CoreLowRank, MAX_RANK, Position};
use es_core::noise::NoiseAddress;
use pyo3::prelude::*;

use crate::door::{detached, raise};
use crate::noise::{Any, Noise, in_range, word};

/// The position of weights. The type decides the kind of their noise.
#[derive(Clone, Copy, FromPyObject)]
pub enum At {
    /// Dense noise.
    Dense(Slice),
    /// Low-rank noise.
    LowRank(LowRank),
}

impl At {
    /// Number of values.
    pub fn size(self) -> usize {
        match self {
            Self::Dense(slice) => slice.size,
            Self::LowRank(block) => block.size(),
        }
    }

    /// The values in this noise, as the core names them.
    pub fn core(self, noise: Noise) -> CoreAt {
        match self {
            Self::Dense(slice) => slice.position(noise).into(),
            Self::LowRank(block) => block.matrix(noise).into(),
        }
    }
}

/// A slice of one tensor: value i is element `element + (i / columns) * stride + i % columns` of the whole tensor.
#[pyclass(frozen, eq, hash, get_all, from_py_object, module = "es_llm._core")]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slice {
    tensor: u32,
    pub size: usize,
    element: u64,
    columns: u64,
    stride: u64,
}

#[pymethods]
impl Slice {
    #[new]
    #[pyo3(signature = (tensor, size, *, element = 0, columns = None, stride = None))]
    fn new(
        tensor: Any<'_, '_>,
        size: Any<'_, '_>,
        #[pyo3(from_py_with = element_word)] element: u64,
        columns: Option<Any<'_, '_>>,
        stride: Option<Any<'_, '_>>,
    ) -> PyResult<Self> {
        let py = tensor.py();
        let (tensor, size) = (word(tensor, "tensor")?, word::<usize>(size, "size")?);
        let one = (size as u64).max(1);
        let row = Self {
            tensor,
            size,
            element,
            columns: one,
            stride: one,
        };
        let slice = match (columns, stride) {
            (None, None) => row,
            (Some(columns), Some(stride)) => Self {
                columns: word(columns, "columns")?,
                stride: word(stride, "stride")?,
                ..row
            },
            _ => {
                let message = "`columns` and `stride` must be given together";
                return Err(raise(py, "KernelError", message));
            }
        };
        detached(py, || slice.position(Noise::default()).check(size))?;
        // Rows without gaps between them are one row.
        let is_row = slice.columns == slice.stride || slice.columns == one;
        Ok(if is_row { row } else { slice })
    }

    /// One past the last element.
    #[getter]
    fn end(&self) -> u64 {
        self.element
            + (self.rows().saturating_sub(1)) * self.stride
            + self.columns.min(self.size as u64)
    }

    /// Number of rows.
    #[getter]
    fn rows(&self) -> u64 {
        self.size as u64 / self.columns
    }

    fn __repr__(&self) -> String {
        format!(
            "Slice(tensor={}, size={}, element={}, columns={}, stride={})",
            self.tensor, self.size, self.element, self.columns, self.stride
        )
    }
}

impl Slice {
    /// The values in this noise, as the core names them.
    pub fn position(self, noise: Noise) -> Position {
        let address = NoiseAddress {
            element: self.element,
            ..noise.address(self.tensor)
        };
        let one = (self.size as u64).max(1);
        if [self.columns, self.stride] == [one, one] {
            return Position::run(address);
        }
        Position {
            address,
            columns: self.columns,
            stride: self.stride,
        }
    }
}

/// A block of a matrix with low-rank noise.
#[pyclass(frozen, eq, hash, get_all, from_py_object, module = "es_llm._core")]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LowRank {
    tensor: u32,
    shape: (usize, usize),
    rank: usize,
    row: u64,
    column: u64,
}

#[pymethods]
impl LowRank {
    #[new]
    #[pyo3(signature = (tensor, shape, rank, *, row = 0, column = 0))]
    fn new(
        tensor: Any<'_, '_>,
        shape: Any<'_, '_>,
        rank: Any<'_, '_>,
        #[pyo3(from_py_with = row_word)] row: u64,
        #[pyo3(from_py_with = column_word)] column: u64,
    ) -> PyResult<Self> {
        let py = tensor.py();
        let block = Self {
            tensor: word(tensor, "tensor")?,
            shape: shape.extract().map_err(|_| {
                let message = format!("low-rank noise is for matrices, got shape {shape}");
                raise(py, "KernelError", &message)
            })?,
            rank: in_range(rank, "KernelError", || {
                format!("`rank` must be in [1, {MAX_RANK}], got {rank}")
            })?,
            row,
            column,
        };
        detached(py, || block.matrix(Noise::default()).check(block.size()))?;
        Ok(block)
    }

    /// Number of values.
    #[getter]
    pub fn size(&self) -> usize {
        self.shape.0.saturating_mul(self.shape.1)
    }

    fn __repr__(&self) -> String {
        format!(
            "LowRank(tensor={}, shape={:?}, rank={}, row={}, column={})",
            self.tensor, self.shape, self.rank, self.row, self.column
        )
    }
}

impl LowRank {
    /// The values in this noise, as the core names them.
    pub fn matrix(self, noise: Noise) -> CoreLowRank {
        CoreLowRank {
            address: noise.address(self.tensor),
            rank: self.rank,
            first: [self.row, self.column],
            shape: [self.shape.0, self.shape.1],
        }
    }
}

/// The argument `element`, for `from_py_with`.
fn element_word(value: Any<'_, '_>) -> PyResult<u64> {
    word(value, "element")
}

/// The argument `row`, for `from_py_with`.
fn row_word(value: Any<'_, '_>) -> PyResult<u64> {
    word(value, "row")
}

/// The argument `column`, for `from_py_with`.
fn column_word(value: Any<'_, '_>) -> PyResult<u64> {
    word(value, "column")
}
