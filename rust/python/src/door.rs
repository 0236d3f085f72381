//! The one door between Python and the core: releases the GIL, catches panics, maps errors to `es_llm.errors`.
//!
//! A binding file implements [`CoreError`] for its module's error enum with an exhaustive match, then sends long calls
//! through [`detached`] and the errors of short ones through [`to_python`].

use std::any::Any;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use pyo3::prelude::*;
use pyo3::types::PyType;

/// An error of the core that knows which class of `es_llm.errors` it becomes.
pub trait CoreError: Display {
    /// Name of the class in `es_llm.errors`, such as `"KernelError"`.
    fn class(&self) -> &'static str;
}

/// Runs `work` without the GIL.
///
/// # Errors
/// The Python class of the core's error; `EsError` if `work` panics, which is a defect of this package.
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

/// The Python exception of one core error.
pub fn to_python(py: Python<'_>, error: &impl CoreError) -> PyErr {
    raise(py, error.class(), &error.to_string())
}

/// An exception of the class `es_llm.errors.<class>` with this message.
///
/// The class is looked up when it is needed (Python keeps the module), so importing `_core` imports nothing else. If the
/// look-up fails, its own exception is returned.
pub fn raise(py: Python<'_>, class: &str, message: &str) -> PyErr {
    let found = py
        .import("es_llm.errors")
        .and_then(|errors| Ok(errors.getattr(class)?.cast_into::<PyType>()?));
    match found {
        Ok(class) => PyErr::from_type(class, (message.to_owned(),)),
        Err(error) => error,
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}
