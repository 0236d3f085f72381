//! numpy arrays as slices. The errors name the argument and the reason.

use numpy::{
    BorrowError, Element, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn,
};
use numpy::{PyReadwriteArrayDyn, PyUntypedArray, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::door::raise;
use crate::noise::Any;

/// The array, if it is contiguous, aligned, of this type and readable.
pub fn readable<'py, T: Element>(
    array: Any<'_, 'py>,
    name: &str,
) -> PyResult<PyReadonlyArrayDyn<'py, T>> {
    let checked = checked::<T>(array, name)?;
    checked
        .try_readonly()
        .map_err(|error| refuse(array.py(), &borrowed("read", name, &error)))
}

/// The array, if it is contiguous, aligned, of this type and writable.
pub fn writable<'py, T: Element>(
    array: Any<'_, 'py>,
    name: &str,
) -> PyResult<PyReadwriteArrayDyn<'py, T>> {
    let checked = checked::<T>(array, name)?;
    checked
        .try_readwrite()
        .map_err(|error| refuse(array.py(), &borrowed("write", name, &error)))
}

/// The array, if it is contiguous (C order), aligned and of this type.
fn checked<'a, 'py, T: Element>(
    array: Any<'a, 'py>,
    name: &str,
) -> PyResult<&'a Bound<'py, PyArrayDyn<T>>> {
    let py = array.py();
    let expected = T::get_dtype(py);
    let refused = |message: String| Err(refuse(py, &message));
    let Ok(untyped) = array.cast::<PyUntypedArray>() else {
        let class = array.get_type();
        return refused(format!(
            "`{name}` must be a numpy array of {expected}, got {class}"
        ));
    };
    let dtype = untyped.dtype();
    if !dtype.is_equiv_to(&expected) {
        return refused(format!(
            "`{name}` must be an array of {expected}, got {dtype}"
        ));
    }
    let typed = array.cast::<PyArrayDyn<T>>()?;
    if !untyped.is_c_contiguous() {
        let (strides, shape) = (untyped.strides(), untyped.shape());
        return refused(format!(
            "`{name}` must be contiguous (C order), got strides {strides:?} for shape {shape:?}"
        ));
    }
    if !typed.data().is_aligned() {
        let size = size_of::<T>();
        return refused(format!(
            "`{name}` must be aligned to its {size}-byte values"
        ));
    }
    Ok(typed)
}

/// The message for an array that is read-only or shares memory with another argument.
fn borrowed(action: &str, name: &str, error: &BorrowError) -> String {
    match error {
        BorrowError::AlreadyBorrowed => {
            format!("`{name}` must not share memory with another argument")
        }
        _ => format!("can't {action} `{name}`: {error}"),
    }
}

/// Refuses two slices that share memory.
pub fn apart<A, B>(
    py: Python<'_>,
    (name, a): (&str, &[A]),
    (other, b): (&str, &[B]),
) -> PyResult<()> {
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
