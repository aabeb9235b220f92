//! `contextvars` from Rust: copy the current context, run code inside one.
//!
//! The C functions are outside the stable ABI, which is why wheels are built per version (PEP 567).

use pyo3::PyTraverseError;
use pyo3::ffi;
use pyo3::gc::PyVisit;
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

/// The context of a callback that has not run: hidden from the collector while nobody else can
/// have a reference to it.
///
/// A burst of `call_soon` makes thousands of contexts, and walking them took more time than
/// running the callbacks. Nothing can be reached through one that its owner does not keep alive.
pub struct CallbackContext(Option<Py<PyContext>>);

impl CallbackContext {
    /// The context given, or a copy of the current one.
    #[inline]
    pub fn new(py: Python<'_>, given: Option<Py<PyContext>>) -> PyResult<Self> {
        if let Some(given) = given {
            return Ok(CallbackContext(Some(given)));
        }
        let context = copy_current(py)?;
        // SAFETY: a live object of a collected type; untracking twice is allowed.
        unsafe { ffi::PyObject_GC_UnTrack(context.as_ptr().cast()) };
        Ok(CallbackContext(Some(context)))
    }

    /// The context, for everybody.
    #[inline]
    pub fn publish<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyContext>> {
        let context = self.0.as_ref()?.bind(py);
        track(context);
        Some(context.clone())
    }

    /// The context, for the time of one run; whoever takes a reference of his own inside (a
    /// `Token` does) finds it shown to the collector when this one is dropped.
    #[inline]
    pub fn borrow_for_a_run<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyContext>> {
        Some(self.0.as_ref()?.bind(py).clone())
    }

    /// Shows the context to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.0)
    }
}

impl Drop for CallbackContext {
    fn drop(&mut self) {
        // A context leaves the collector's list when it dies, so it has to be on it.
        if let Some(context) = self.0.take() {
            Python::attach(|py| track(context.bind(py)));
        }
    }
}

#[inline]
fn track(context: &Bound<'_, PyContext>) {
    // SAFETY: a live, complete object of a collected type, put on the list only when not there.
    unsafe {
        if ffi::PyObject_GC_IsTracked(context.as_ptr()) == 0 {
            ffi::PyObject_GC_Track(context.as_ptr().cast());
        }
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
