//! `contextvars` from Rust: copy the current context, run code inside one.
//!
//! The C functions are outside the stable ABI, which is why wheels are built per version (PEP 567).

use std::sync::atomic::{AtomicBool, Ordering};

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

/// What a `Context` looks like in memory (`Include/internal/pycore_context.h`, 3.11 to 3.15).
#[repr(C)]
struct Layout {
    head: ffi::PyObject,
    previous: *mut ffi::PyObject,
    /// An immutable mapping: two contexts with the same one hold the same values.
    variables: *mut ffi::PyObject,
}

/// Whether [`Layout`] was found to be true of this interpreter.
static LAYOUT_IS_KNOWN: AtomicBool = AtomicBool::new(false);

/// Tries [`Layout`] on contexts whose values are known; called when the module is built. On an
/// interpreter that fails it every callback gets a copy of its own, which is only slower.
pub fn examine_layout(py: Python<'_>) -> PyResult<()> {
    let size: usize = py.get_type::<PyContext>().getattr("__basicsize__")?.extract()?;
    if size < std::mem::size_of::<Layout>() {
        return Ok(());
    }
    let variable = py.import("contextvars")?.getattr("ContextVar")?.call1(("aioxide",))?;
    let original = copy_current(py)?.into_bound(py);
    let twin = copy(&original)?.into_bound(py);
    let other = copy(&original)?.into_bound(py);
    run_in(&other, || variable.call_method1("set", (1,)))??;
    let known = variables(&original) == variables(&twin)
        && variables(&original) != variables(&other)
        && !variables(&original).is_null();
    LAYOUT_IS_KNOWN.store(known, Ordering::Relaxed);
    Ok(())
}

fn variables(context: &Bound<'_, PyContext>) -> *mut ffi::PyObject {
    // SAFETY: an exact Context, at least as large as `Layout` (`examine_layout`); the pointer is
    // compared and never followed.
    unsafe { (*context.as_ptr().cast::<Layout>()).variables }
}

/// Whether both hold the same values; false also when that cannot be known.
#[inline]
fn same_values(one: &Bound<'_, PyContext>, two: &Bound<'_, PyContext>) -> bool {
    LAYOUT_IS_KNOWN.load(Ordering::Relaxed) && variables(one) == variables(two)
}

/// The contexts of callbacks, shared as long as nobody can tell.
///
/// `call_soon` gives each callback a copy of the current context. Nearly all of those copies are
/// equal and never changed, yet a burst of them costs more than the callbacks themselves. So
/// callbacks share a snapshot that nobody enters, and run, one after the other, in one copy of it
/// that is used again as long as it was neither changed nor kept by anybody.
#[derive(Default)]
pub struct Snapshots {
    snapshot: Option<Py<PyContext>>,
    runner: Option<Py<PyContext>>,
}

impl Snapshots {
    /// The snapshot, if it equals `current`; else `current` becomes the snapshot. What is left
    /// over is the second part, to be dropped once no state is open.
    #[inline]
    pub fn share<'py>(
        &mut self,
        current: Bound<'py, PyContext>,
    ) -> (Py<PyContext>, Option<Bound<'py, PyContext>>) {
        let py = current.py();
        if let Some(snapshot) = &self.snapshot
            && same_values(snapshot.bind(py), &current)
        {
            return (snapshot.clone_ref(py), Some(current));
        }
        let shared = current.unbind();
        let old = self.snapshot.replace(shared.clone_ref(py));
        (shared, old.map(|old| old.into_bound(py)))
    }

    /// The context to run a callback in whose snapshot this is, if one is free.
    #[inline]
    pub fn runner<'py>(&self, snapshot: &Bound<'py, PyContext>) -> Option<Bound<'py, PyContext>> {
        let runner = self.runner.as_ref()?.bind(snapshot.py());
        // SAFETY: reads the count of a live object, with the interpreter attached. One reference
        // is ours; another is somebody's who may still look at it, or is inside it.
        let is_free = unsafe { ffi::Py_REFCNT(runner.as_ptr()) } == 1;
        (is_free && same_values(runner, snapshot)).then(|| runner.clone())
    }

    /// Keeps a copy for the next callback; returns the one it replaces.
    pub fn keep_runner(&mut self, runner: Py<PyContext>) -> Option<Py<PyContext>> {
        self.runner.replace(runner)
    }

    /// Shows both to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.snapshot)?;
        visit.call(&self.runner)
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
