//! `contextvars` from Rust: copy the current context, run code inside one.
//!
//! The C functions are outside the stable ABI, which is why wheels are built per version (PEP 567).

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyContext;

/// `contextvars.copy_context()`.
#[inline]
pub fn copy_current(py: Python<'_>) -> PyResult<Py<PyContext>> {
    // SAFETY: returns a new reference to a Context, or NULL with an exception set.
    unsafe {
        let context = ffi::PyContext_CopyCurrent();
        Ok(Bound::from_owned_ptr_or_err(py, context)?.cast_into_unchecked::<PyContext>().unbind())
    }
}

/// `context.copy()`.
pub fn copy(context: &Bound<'_, PyContext>) -> PyResult<Py<PyContext>> {
    // SAFETY: `context` is an exact Context; returns a new reference, or NULL with an exception.
    unsafe {
        let copy = ffi::PyContext_Copy(context.as_ptr());
        Ok(Bound::from_owned_ptr_or_err(context.py(), copy)?
            .cast_into_unchecked::<PyContext>()
            .unbind())
    }
}

/// Leaves the context again, also when the code inside unwinds.
struct Inside<'a, 'py>(&'a Bound<'py, PyContext>);

impl Drop for Inside<'_, '_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the context was entered by `run_in` on this thread. Leaving fails only when
        // somebody else left it first, a bug of theirs that must not hide the result.
        unsafe {
            if ffi::PyContext_Exit(self.0.as_ptr()) != 0 {
                ffi::PyErr_WriteUnraisable(self.0.as_ptr());
            }
        }
    }
}

/// Runs `code` with `context` as the current one.
///
/// # Errors
/// `RuntimeError` when the context is entered already.
#[inline]
pub fn run_in<R>(context: &Bound<'_, PyContext>, code: impl FnOnce() -> R) -> PyResult<R> {
    // SAFETY: `context` is an exact Context; a non-zero answer has set an exception.
    if unsafe { ffi::PyContext_Enter(context.as_ptr()) } != 0 {
        return Err(PyErr::fetch(context.py()));
    }
    let inside = Inside(context);
    let result = code();
    drop(inside);
    Ok(result)
}
