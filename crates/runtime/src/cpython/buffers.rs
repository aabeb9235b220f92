//! Lends a Python buffer to a system call, and nothing longer.
//!
//! The interpreter stays attached while a slice is out, and the closure must not call Python, so
//! nobody can resize or fill the buffer meanwhile.

use pyo3::ffi;
use pyo3::prelude::*;

/// Releases the buffer again, also when the closure unwinds.
struct Lent(ffi::Py_buffer);

impl Drop for Lent {
    fn drop(&mut self) {
        // SAFETY: filled by a successful `PyObject_GetBuffer`, released once.
        unsafe { ffi::PyBuffer_Release(&mut self.0) }
    }
}

fn lend(object: &Bound<'_, PyAny>, flags: std::ffi::c_int) -> PyResult<Lent> {
    let mut view = Box::new(ffi::Py_buffer::new());
    // SAFETY: `view` is a valid place; a non-zero answer has set an exception.
    if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &mut *view, flags) } != 0 {
        return Err(PyErr::fetch(object.py()));
    }
    Ok(Lent(*view))
}

/// Reads `object` (any C-contiguous buffer) as bytes.
///
/// # Errors
/// `TypeError` when it has no buffer, `BufferError` when it is not contiguous.
pub fn read<R>(object: &Bound<'_, PyAny>, look: impl FnOnce(&[u8]) -> R) -> PyResult<R> {
    let lent = lend(object, ffi::PyBUF_SIMPLE)?;
    // SAFETY: a simple buffer is `len` contiguous bytes at `buf`, alive until released; `buf` may
    // be NULL only when `len` is zero.
    let bytes = unsafe { slice(lent.0.buf.cast::<u8>(), lent.0.len as usize) };
    Ok(look(bytes))
}

/// Lets `fill` write into `object` (a writable, C-contiguous buffer).
///
/// # Errors
/// `TypeError` or `BufferError` when it cannot be written to.
pub fn write<R>(object: &Bound<'_, PyAny>, fill: impl FnOnce(&mut [u8]) -> R) -> PyResult<R> {
    let lent = lend(object, ffi::PyBUF_WRITABLE)?;
    let length = lent.0.len as usize;
    if length == 0 {
        return Ok(fill(&mut []));
    }
    // SAFETY: as in `read`, and the exporter allowed writing; no Python code runs meanwhile, so
    // no other reference to these bytes is used.
    let bytes = unsafe { std::slice::from_raw_parts_mut(lent.0.buf.cast::<u8>(), length) };
    Ok(fill(bytes))
}

unsafe fn slice<'a>(start: *const u8, length: usize) -> &'a [u8] {
    if length == 0 {
        return &[];
    }
    // SAFETY: promised by the caller.
    unsafe { std::slice::from_raw_parts(start, length) }
}
