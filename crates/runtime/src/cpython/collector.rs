//! When a handle is shown to the garbage collector, and what its loop shows on its behalf.
//!
//! A handle that only its loop holds is on no list of the collector; see `handles.rs` for why.

use pyo3::ffi;
use pyo3::prelude::*;

use crate::handles::{Handle, TimerHandle};

/// Whether anybody but the caller holds a reference.
pub fn is_shared<T>(object: &Py<T>) -> bool {
    // SAFETY: a live object; the collector holds the GIL, so the count stands still.
    unsafe { ffi::Py_REFCNT(object.as_ptr()) != 1 }
}

/// The `Handle` that a `TimerHandle` extends.
pub fn base(timer: &Py<TimerHandle>) -> &Handle {
    // SAFETY: an instance of TimerHandle is one of Handle, whose data is frozen and `Sync`; the
    // pointer stays alive as long as `timer` is borrowed. No reference count is touched.
    unsafe {
        let handle: *const Py<Handle> = std::ptr::from_ref(timer).cast();
        (*handle).get()
    }
}

/// Whether the collector sees the object.
pub fn is_shown<T>(object: &Py<T>) -> bool {
    // SAFETY: reads a flag in front of a live object of a collected type.
    unsafe { ffi::PyObject_GC_IsTracked(object.as_ptr()) != 0 }
}

/// Shows a handle to the collector, if it is not shown already.
pub fn show(handle: &Bound<'_, Handle>) {
    // SAFETY: a live, complete object of a collected type with `tp_traverse`; put on the list
    // only when it is not there.
    unsafe {
        if ffi::PyObject_GC_IsTracked(handle.as_ptr()) == 0 {
            ffi::PyObject_GC_Track(handle.as_ptr().cast());
        }
    }
}

/// As [`show`], but only if somebody beside the caller holds the handle.
#[inline]
pub fn show_if_shared(handle: &Bound<'_, Handle>) {
    // SAFETY: reads the count of a live object, with the interpreter attached.
    if unsafe { ffi::Py_REFCNT(handle.as_ptr()) } > 1 {
        show(handle);
    }
}

/// What [`show_if_kept`] may be asked to show.
pub trait Shown {}

impl Shown for Handle {}
impl Shown for TimerHandle {}

/// Shows a handle that its loop is about to give up, if somebody beside the loop holds it: what it
/// refers to may lead back to whoever holds it. Runs no Python code.
pub fn show_if_kept<T: Shown>(handle: &Py<T>) {
    // SAFETY: a live, complete object of a collected type with `tp_traverse`; put on the list
    // only when it is not there, with the interpreter attached (a loop gives up its handles).
    unsafe {
        let object = handle.as_ptr();
        if ffi::Py_REFCNT(object) > 1 && ffi::PyObject_GC_IsTracked(object) == 0 {
            ffi::PyObject_GC_Track(object.cast());
        }
    }
}
