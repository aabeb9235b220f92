//! Reference counts, for `__traverse__`, which runs without the `Python` token.

use pyo3::Py;
use pyo3::ffi;

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
