//! Lends a Python buffer to a system call, and nothing longer; makes `bytes` that are filled where
//! they stand.
//!
//! The interpreter stays attached while a slice is out, and the closure must not call Python, so
//! nobody can resize or fill the buffer meanwhile. Where OpenSSL works on a buffer, which it does
//! without the interpreter, only addresses are passed on ([`Space`], [`hold`]).

use std::mem::MaybeUninit;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

unsafe extern "C" {
    /// Makes a `bytes` that nobody else has shorter; part of the stable ABI, not of PyO3.
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, length: ffi::Py_ssize_t) -> std::ffi::c_int;
}

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

/// Memory that is filled from its start on, by functions of this room only.
pub struct Space {
    start: *mut u8,
    length: usize,
    filled: usize,
}

impl Space {
    /// Where the unfilled part begins, and its length.
    pub(super) fn rest(&self) -> (*mut u8, usize) {
        (self.start.wrapping_add(self.filled), self.length - self.filled)
    }

    /// Lets `write` initialise the unfilled part from its start on; what it answers is the part
    /// that it did.
    pub fn write_with<E>(
        &mut self,
        write: impl for<'a> FnOnce(&'a mut [MaybeUninit<u8>]) -> Result<&'a mut [u8], E>,
    ) -> Result<(), E> {
        let (start, length) = self.rest();
        // SAFETY: this much memory that nobody else reads or writes while `self` is borrowed. A
        // slice of initialised bytes that begins there can only be a part of it.
        let written = unsafe {
            write(std::slice::from_raw_parts_mut(start.cast::<MaybeUninit<u8>>(), length))?
        };
        if std::ptr::eq(written.as_ptr(), start) {
            self.advance(written.len());
        }
        Ok(())
    }

    /// `count` more bytes were written.
    pub(super) fn advance(&mut self, count: usize) {
        self.filled = (self.filled + count).min(self.length);
    }

    /// Bytes written.
    pub fn filled(&self) -> usize {
        self.filled
    }

    /// Whether nothing more can be written.
    pub fn is_full(&self) -> bool {
        self.filled == self.length
    }
}

/// Lets `fill` write into `object` (a writable, C-contiguous buffer), which it may do by way of
/// Python objects: the buffer cannot be resized meanwhile.
///
/// # Errors
/// `TypeError` or `BufferError` when it cannot be written to.
pub fn fill<R>(object: &Bound<'_, PyAny>, fill: impl FnOnce(&mut Space) -> R) -> PyResult<R> {
    let lent = lend(object, ffi::PyBUF_WRITABLE)?;
    let mut space =
        Space { start: lent.0.buf.cast::<u8>(), length: lent.0.len as usize, filled: 0 };
    Ok(fill(&mut space))
}

/// A `bytes` of what `fill` writes, at most `capacity` bytes; what `fill` says comes beside it.
///
/// # Errors
/// `MemoryError`.
pub fn build<R>(
    py: Python<'_>,
    capacity: usize,
    fill: impl FnOnce(&mut Space) -> R,
) -> PyResult<(Bound<'_, PyBytes>, R)> {
    // SAFETY: a new object that nobody else has: it may be written to and made shorter. `Space`
    // counts only what this room wrote. When shortening fails the object is gone already.
    unsafe {
        let mut object =
            ffi::PyBytes_FromStringAndSize(std::ptr::null(), capacity as ffi::Py_ssize_t);
        if object.is_null() {
            return Err(PyErr::fetch(py));
        }
        let start = ffi::PyBytes_AsString(object).cast::<u8>();
        let mut space = Space { start, length: capacity, filled: 0 };
        let answer = fill(&mut space);
        if _PyBytes_Resize(&raw mut object, space.filled as ffi::Py_ssize_t) != 0 {
            return Err(PyErr::fetch(py));
        }
        Ok((Bound::from_owned_ptr(py, object).cast_into_unchecked::<PyBytes>(), answer))
    }
}

/// A `bytes` in the making, filled from its start on while its end is yet to be received.
///
/// It grows as it is filled: whoever announces much and sends little takes little memory.
pub struct Growing {
    /// Always a `bytes` that nobody else has; None only after growing failed.
    object: Option<Py<PyBytes>>,
    filled: usize,
    capacity: usize,
    most: usize,
}

impl Growing {
    /// Room for `capacity` bytes at once, and for `most` in the end.
    ///
    /// # Errors
    /// `MemoryError`.
    pub fn new(py: Python<'_>, capacity: usize, most: usize) -> PyResult<Self> {
        let capacity = capacity.min(most);
        // SAFETY: makes a new object of that length, its contents unwritten, or sets an exception.
        let object = unsafe {
            let object =
                ffi::PyBytes_FromStringAndSize(std::ptr::null(), capacity as ffi::Py_ssize_t);
            Bound::from_owned_ptr_or_err(py, object)?.cast_into_unchecked::<PyBytes>().unbind()
        };
        Ok(Growing { object: Some(object), filled: 0, capacity, most })
    }

    /// How much was written.
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Lets `fill` write after what was written, and say how much it wrote. The room is never
    /// empty unless `most` bytes were written.
    ///
    /// # Errors
    /// `MemoryError`, after which everything is lost, or what `fill` says.
    pub fn fill<E>(
        &mut self,
        py: Python<'_>,
        fill: impl FnOnce(&mut [MaybeUninit<u8>]) -> Result<usize, E>,
    ) -> PyResult<Result<usize, E>> {
        if self.filled == self.capacity {
            let capacity = self.capacity.saturating_mul(2).min(self.most);
            let object = self.resized(py, capacity)?;
            self.object = Some(object);
            self.capacity = capacity;
        }
        let Some(object) = &self.object else { return Ok(fill(&mut [])) };
        // SAFETY: `capacity` bytes stand at this address, of which the first `filled` are written;
        // nobody else has the object, and the GIL is held.
        let room = unsafe {
            let start = ffi::PyBytes_AsString(object.as_ptr()).cast::<MaybeUninit<u8>>();
            std::slice::from_raw_parts_mut(start.add(self.filled), self.capacity - self.filled)
        };
        Ok(fill(room).inspect(|count| self.filled = (self.filled + count).min(self.capacity)))
    }

    /// Copies as many of `bytes` as fit, and says how many those are.
    ///
    /// # Errors
    /// As [`Growing::fill`].
    pub fn extend(&mut self, py: Python<'_>, mut bytes: &[u8]) -> PyResult<usize> {
        let before = self.filled;
        while !bytes.is_empty() && self.filled < self.most {
            let copied = self.fill(py, |room| {
                let count = room.len().min(bytes.len());
                for (place, byte) in room.iter_mut().zip(&bytes[..count]) {
                    place.write(*byte);
                }
                Ok::<usize, std::convert::Infallible>(count)
            })?;
            let Ok(count) = copied;
            if count == 0 {
                break;
            }
            bytes = &bytes[count..];
        }
        Ok(self.filled - before)
    }

    /// What was written.
    ///
    /// # Errors
    /// `MemoryError`.
    pub fn finish(mut self, py: Python<'_>) -> PyResult<Bound<'_, PyBytes>> {
        if self.filled < self.capacity {
            return Ok(self.resized(py, self.filled)?.into_bound(py));
        }
        match self.object.take() {
            Some(object) => Ok(object.into_bound(py)),
            None => Ok(PyBytes::new(py, b"")),
        }
    }

    fn resized(&mut self, py: Python<'_>, length: usize) -> PyResult<Py<PyBytes>> {
        let Some(object) = self.object.take() else {
            return Err(pyo3::exceptions::PyMemoryError::new_err(()));
        };
        // SAFETY: an object that nobody else has may be resized; a non-zero answer has set an
        // exception and freed it. The empty `bytes` is one that others have, and is replaced.
        unsafe {
            let mut object = object.into_ptr();
            if _PyBytes_Resize(&raw mut object, length as ffi::Py_ssize_t) != 0 {
                return Err(PyErr::fetch(py));
            }
            Ok(Bound::from_owned_ptr(py, object).cast_into_unchecked::<PyBytes>().unbind())
        }
    }
}

/// Keeps `object` (any C-contiguous buffer) from being resized while `look` uses its address and
/// its length.
///
/// # Errors
/// As [`read`].
pub(super) fn hold<R>(
    object: &Bound<'_, PyAny>,
    look: impl FnOnce(usize, usize) -> R,
) -> PyResult<R> {
    let lent = lend(object, ffi::PyBUF_SIMPLE)?;
    Ok(look(lent.0.buf as usize, lent.0.len as usize))
}

unsafe fn slice<'a>(start: *const u8, length: usize) -> &'a [u8] {
    if length == 0 {
        return &[];
    }
    // SAFETY: promised by the caller.
    unsafe { std::slice::from_raw_parts(start, length) }
}
