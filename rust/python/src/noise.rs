//! Noise addresses from Python integers, each word checked by name, and the bare generator.

use es_core::noise::{self, Kind, NoiseAddress, NoiseError};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;

use crate::door::{CoreError, raise};

/// An argument that is converted by hand, so that errors can name it.
pub type Any<'a, 'py> = &'a Bound<'py, PyAny>;

/// Adds this file's constants and functions to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("NOISE_VERSION", noise::NOISE_VERSION)?;
    m.add("MAX_TENSORS", noise::MAX_TENSORS)?;
    m.add("MAX_ELEMENTS", noise::MAX_ELEMENTS)?;
    m.add_function(wrap_pyfunction!(philox4x32, m)?)?;
    Ok(())
}

impl CoreError for NoiseError {
    fn class(&self) -> &'static str {
        match self {
            Self::Tensor(_) | Self::Element { .. } => "NoiseAddressError",
        }
    }
}

/// Philox4x32-10 of four 32-bit counter words under two key words (Salmon et al., SC11).
#[pyfunction]
fn philox4x32(counter: Any<'_, '_>, key: Any<'_, '_>) -> PyResult<(u32, u32, u32, u32)> {
    let (counter, key) = (words(counter, "counter")?, words(key, "key")?);
    let (Ok(counter), Ok(key)) = (<[u32; 4]>::try_from(counter), <[u32; 2]>::try_from(key)) else {
        return Err(PyValueError::new_err(
            "`counter` must have 4 words and `key` 2",
        ));
    };
    Ok(noise::philox4x32(counter, key).into())
}

/// The address; without a pair, that word is 0.
pub fn address(
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

/// The word `element`, for `from_py_with`.
pub fn element_word(value: Any<'_, '_>) -> PyResult<u64> {
    word(value, "element")
}

/// The word `row`, for `from_py_with`.
pub fn row_word(value: Any<'_, '_>) -> PyResult<u64> {
    word(value, "row")
}

/// The word `column`, for `from_py_with`.
pub fn column_word(value: Any<'_, '_>) -> PyResult<u64> {
    word(value, "column")
}

/// One unsigned word of an address; out of its range is a `NoiseAddressError`.
pub fn word<'py, T>(value: &Bound<'py, PyAny>, name: &str) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    let width = 8 * size_of::<T>();
    in_range(value, "NoiseAddressError", || {
        format!("`{name}` must be an integer in [0, 2**{width}), got {value}")
    })
}

/// An integer; anything else, and what its type can't hold, is an error of the given class.
pub fn in_range<'py, T>(
    value: &Bound<'py, PyAny>,
    class: &str,
    message: impl Fn() -> String,
) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    let py = value.py();
    value.extract().map_err(|error: PyErr| {
        if error.is_instance_of::<PyOverflowError>(py) || error.is_instance_of::<PyTypeError>(py) {
            raise(py, class, &message())
        } else {
            error
        }
    })
}

/// Several 32-bit words.
pub fn words(values: Any<'_, '_>, name: &str) -> PyResult<Vec<u32>> {
    let Ok(values) = values.try_iter() else {
        let message = format!("`{name}` must be a sequence of integers, got {values}");
        return Err(raise(values.py(), "KernelError", &message));
    };
    values.map(|value| word(&value?, name)).collect()
}

/// What the noise is for, by name.
pub fn kind(py: Python<'_>, name: &str) -> PyResult<Kind> {
    match name {
        "dense" => Ok(Kind::Dense),
        "low_rank_a" => Ok(Kind::LowRankA),
        "low_rank_b" => Ok(Kind::LowRankB),
        _ => Err(raise(
            py,
            "KernelError",
            &format!("`kind` must be \"dense\", \"low_rank_a\" or \"low_rank_b\", got {name:?}"),
        )),
    }
}
