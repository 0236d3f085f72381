//! The door between Python and the core: releases the GIL, catches panics, maps errors to `es_llm.errors`.
//!
//! A binding file implements [`CoreError`] for the error of its module, with an exhaustive match where there are several
//! classes. It calls the core through [`detached`], or through [`unfailing`] if the call returns no error. State between
//! calls is a [`Guarded`] value. `clippy.toml` of this crate bans `Python::detach` in all other files.

use std::any::Any;
use std::convert::Infallible;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyType;

/// Adds the function of this file to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.setattr("_panic_in_core", wrap_pyfunction!(panic_in_core, m)?)
}

/// An error of the core, with its class in `es_llm.errors`.
pub trait CoreError: Display {
    /// Name of the class in `es_llm.errors`, such as `"KernelError"`.
    fn class(&self) -> &'static str;
}

impl CoreError for Infallible {
    fn class(&self) -> &'static str {
        match *self {}
    }
}

/// Runs `work` without the GIL.
///
/// # Errors
/// The Python class of the core's error; `EsError` if `work` panics, which is a defect of this package.
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn detached<T, E>(py: Python<'_>, work: impl FnOnce() -> Result<T, E> + Send) -> PyResult<T>
where
    T: Send,
    E: CoreError + Send,
{
    match py.detach(|| catch_unwind(AssertUnwindSafe(work))) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(to_python(py, &error)),
        Err(panic) => Err(raise(
            py,
            "EsError",
            &format!("defect in the core, please report: {}", text_of(&*panic)),
        )),
    }
}

/// Runs `work`, which returns no error, without the GIL.
///
/// # Errors
/// `EsError` if `work` panics.
pub fn unfailing<T: Send>(py: Python<'_>, work: impl FnOnce() -> T + Send) -> PyResult<T> {
    detached(py, || Ok::<T, Infallible>(work()))
}

/// State of the core that Python threads share. A thread that waits for the lock doesn't hold the GIL, so other threads run.
/// After a panic the state is used as it is.
pub struct Guarded<T>(Mutex<T>);

impl<T: Send> Guarded<T> {
    pub fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }

    /// Runs `work`, which returns no error, on the state.
    pub fn with<R: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut T) -> R + Send,
    ) -> PyResult<R> {
        self.attempt(py, |value| Ok::<R, Infallible>(work(value)))
    }

    /// Runs `work` on the state.
    pub fn attempt<R, E>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut T) -> Result<R, E> + Send,
    ) -> PyResult<R>
    where
        R: Send,
        E: CoreError + Send,
    {
        detached(py, || {
            work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
        })
    }
}

/// The Python exception of an error of the core.
fn to_python(py: Python<'_>, error: &impl CoreError) -> PyErr {
    raise(py, error.class(), &error.to_string())
}

/// An exception of the class `es_llm.errors.<class>` with this message.
///
/// The class is imported only here, so importing `_core` imports nothing else. If that import fails, the result is its
/// exception.
pub fn raise(py: Python<'_>, class: &str, message: &str) -> PyErr {
    let found = py
        .import("es_llm.errors")
        .and_then(|errors| Ok(errors.getattr(class)?.cast_into::<PyType>()?));
    match found {
        Ok(class) => PyErr::from_type(class, (message.to_owned(),)),
        Err(error) => error,
    }
}

/// Panics behind the door, as a defect of the core would. For the test of the exception.
#[pyfunction]
#[pyo3(name = "_panic_in_core")]
#[expect(clippy::panic, reason = "the purpose of the function")]
fn panic_in_core(py: Python<'_>, message: &str) -> PyResult<()> {
    unfailing(py, || panic!("{message}"))
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}
