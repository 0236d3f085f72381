//! Which noise a kernel draws: `Noise` and `Terms`, checked when they are created. Also the generator alone.

use es_core::kernels::{KernelError, MAX_RANK};
use es_core::noise::{self, Kind, NoiseAddress, NoiseError};
use numpy::{IntoPyArray, PyArray1, PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::readable;
use crate::door::{CoreError, detached, raise, unfailing};
use crate::slices::{LowRank, Slice};

/// An argument that is converted by hand, so that errors name it.
pub type Any<'a, 'py> = &'a Bound<'py, PyAny>;

/// The kinds of noise, by their names in Python.
const KINDS: [(&str, Kind); 3] = [
    ("dense", Kind::Dense),
    ("low_rank_a", Kind::LowRankA),
    ("low_rank_b", Kind::LowRankB),
];

/// Adds the constants, classes and functions of this file to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("NOISE_VERSION", noise::NOISE_VERSION)?;
    m.add("MAX_TENSORS", noise::MAX_TENSORS)?;
    m.add("MAX_ELEMENTS", noise::MAX_ELEMENTS)?;
    m.add("MAX_RANK", MAX_RANK)?;
    let kinds = PyDict::new(m.py());
    for (name, kind) in KINDS {
        kinds.set_item(name, kind as u32)?;
    }
    m.add("NOISE_KINDS", kinds)?;
    m.add_class::<Noise>()?;
    m.add_class::<Slice>()?;
    m.add_class::<LowRank>()?;
    m.add_class::<Terms>()?;
    m.add_function(wrap_pyfunction!(philox4x32, m)?)?;
    Ok(())
}

impl CoreError for NoiseError {
    fn class(&self) -> &'static str {
        "NoiseAddressError"
    }
}

/// The part of an address that all tensors of a member share.
#[pyclass(frozen, eq, hash, get_all, module = "es_llm._core")]
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Noise {
    run_seed: u64,
    iteration: u32,
    pair: u32,
}

#[pymethods]
impl Noise {
    #[new]
    fn new(run_seed: Any<'_, '_>, iteration: Any<'_, '_>, pair: Any<'_, '_>) -> PyResult<Self> {
        Ok(Self {
            run_seed: word(run_seed, "run_seed")?,
            iteration: word(iteration, "iteration")?,
            pair: word(pair, "pair")?,
        })
    }

    fn __repr__(&self) -> String {
        format!(
            "Noise(run_seed={}, iteration={}, pair={})",
            self.run_seed, self.iteration, self.pair
        )
    }
}

impl Noise {
    /// The address of this noise at the first element of a tensor.
    pub fn address(self, tensor: u32) -> NoiseAddress {
        NoiseAddress {
            run_seed: self.run_seed,
            iteration: self.iteration,
            pair: self.pair,
            tensor,
            element: 0,
        }
    }
}

/// The terms of an update: the pairs of one iteration in the order of the sum, each with a coefficient.
#[pyclass(frozen, module = "es_llm._core")]
pub struct Terms {
    #[pyo3(get)]
    run_seed: u64,
    #[pyo3(get)]
    iteration: u32,
    pub pairs: Vec<u32>,
    pub coefficients: Vec<f32>,
}

#[pymethods]
impl Terms {
    #[new]
    #[pyo3(signature = (run_seed, iteration, coefficients, pairs = None))]
    fn new(
        run_seed: Any<'_, '_>,
        iteration: Any<'_, '_>,
        coefficients: Any<'_, '_>,
        pairs: Option<Any<'_, '_>>,
    ) -> PyResult<Self> {
        let py = run_seed.py();
        let array = readable::<f32>(coefficients, "coefficients")?;
        if array.ndim() != 1 {
            let shape = array.shape();
            let message = format!("`coefficients` must have one dimension, got shape {shape:?}");
            return Err(raise(py, "KernelError", &message));
        }
        let coefficients = array.as_slice()?.to_vec();
        let pairs = match pairs {
            Some(pairs) => words(pairs, "pairs")?,
            None => (0..coefficients.len()).map(|pair| pair as u32).collect(),
        };
        if pairs.len() != coefficients.len() {
            let (pairs, coefficients) = (pairs.len(), coefficients.len());
            return detached(py, || {
                Err(KernelError::Coefficients {
                    pairs,
                    coefficients,
                })
            });
        }
        Ok(Self {
            run_seed: word(run_seed, "run_seed")?,
            iteration: word(iteration, "iteration")?,
            pairs,
            coefficients,
        })
    }

    /// (N,) pairs, a copy.
    #[getter]
    fn pairs<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<u32>> {
        PyArray1::from_slice(py, &self.pairs)
    }

    /// (N,) coefficients, a copy.
    #[getter]
    fn coefficients<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        PyArray1::from_slice(py, &self.coefficients)
    }

    fn __len__(&self) -> usize {
        self.pairs.len()
    }

    fn __repr__(&self) -> String {
        format!(
            "Terms(run_seed={}, iteration={}, pairs={})",
            self.run_seed,
            self.iteration,
            self.pairs.len()
        )
    }
}

impl Terms {
    /// The noise of pair 0; the kernels of an update replace the pair by those of the terms.
    pub fn noise(&self) -> Noise {
        Noise {
            run_seed: self.run_seed,
            iteration: self.iteration,
            pair: 0,
        }
    }
}

/// Philox4x32-10 of counters (n, 4) under a key of two words (Salmon et al., SC11): (n, 4) random words.
#[pyfunction]
fn philox4x32<'py>(counters: Any<'_, 'py>, key: (u32, u32)) -> PyResult<Bound<'py, PyArray2<u32>>> {
    let py = counters.py();
    let counters = readable::<u32>(counters, "counters")?;
    if counters.ndim() != 2 || counters.shape()[1] != 4 {
        let shape = counters.shape();
        let message = format!("`counters` must have the shape (n, 4), got {shape:?}");
        return Err(raise(py, "KernelError", &message));
    }
    let (counters, _) = counters.as_slice()?.as_chunks();
    let words: Vec<u32> = unfailing(py, || {
        let key = [key.0, key.1];
        let words = counters.iter();
        words
            .flat_map(|counter| noise::philox4x32(*counter, key))
            .collect()
    })?;
    words.into_pyarray(py).reshape([counters.len(), 4])
}

/// One unsigned word of an address; out of range raises `NoiseAddressError`.
pub fn word<'py, T>(value: &Bound<'py, PyAny>, name: &str) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    let width = 8 * size_of::<T>();
    in_range(value, "NoiseAddressError", || {
        format!("`{name}` must be an integer in [0, 2**{width}), got {value}")
    })
}

/// An integer of type `T`. Anything else, or an integer out of range, raises the given class.
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
fn words(values: Any<'_, '_>, name: &str) -> PyResult<Vec<u32>> {
    let Ok(values) = values.try_iter() else {
        let message = format!("`{name}` must be a sequence of integers, got {values}");
        return Err(raise(values.py(), "KernelError", &message));
    };
    values.map(|value| word(&value?, name)).collect()
}

/// A kind of noise, by name.
pub fn kind(py: Python<'_>, name: &str) -> PyResult<Kind> {
    let found = KINDS.iter().find(|(known, _)| *known == name);
    found.map(|(_, kind)| *kind).ok_or_else(|| {
        let names: Vec<&str> = KINDS.iter().map(|(known, _)| *known).collect();
        let message = format!("`kind` must be one of {}, got '{name}'", names.join(", "));
        raise(py, "KernelError", &message)
    })
}
