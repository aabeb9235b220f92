//! Descriptors that Python hands over or lends.
//!
//! A door takes a Python object, not a number, wherever ownership moves: `take` calls `detach()`
//! itself, so what it returns is owned by construction.

use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use pyo3::exceptions::{PyAttributeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyInt;
use rustix::io::Errno;

/// Takes the descriptor out of a Python socket, which is closed by that (`socket.detach`).
pub fn take(socket: &Bound<'_, PyAny>) -> PyResult<OwnedFd> {
    let fd: RawFd = socket.call_method0(intern!(socket.py(), "detach"))?.extract()?;
    if fd < 0 {
        return Err(PyValueError::new_err("the socket is closed"));
    }
    // SAFETY: `detach` gave the descriptor up without closing it; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Hands a descriptor to a new Python socket object, which owns it from then on.
pub fn give(
    class: &Bound<'_, PyAny>,
    descriptor: OwnedFd,
    family: i32,
    kind: i32,
    protocol: i32,
) -> PyResult<Py<PyAny>> {
    let fd = descriptor.into_raw_fd();
    match class.call1((family, kind, protocol, fd)) {
        Ok(socket) => Ok(socket.unbind()),
        Err(error) => {
            // SAFETY: `into_raw_fd` made us the owner, and the socket was not made.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            Err(error)
        }
    }
}

/// The number behind an int or an object with `fileno()`, as `selectors._fileobj_to_fd` reads it.
///
/// # Errors
/// `ValueError` for a negative number or an object without a usable `fileno()`.
pub fn number(object: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    let fd = any_number(object)?;
    if fd < 0 {
        return Err(PyValueError::new_err(format!("Invalid file descriptor: {fd}")));
    }
    Ok(fd)
}

/// As [`number`], but a closed socket's -1 is an answer too.
pub fn any_number(object: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    let py = object.py();
    if object.is_instance_of::<PyInt>() {
        return object.extract();
    }
    let invalid =
        || PyValueError::new_err(format!("Invalid file object: {}", crate::errors::repr(object)));
    let answer = object.call_method0(intern!(py, "fileno")).map_err(|error| {
        let no_number =
            error.is_instance_of::<PyAttributeError>(py) || error.is_instance_of::<PyTypeError>(py);
        if no_number { invalid() } else { error }
    })?;
    answer.extract().map_err(|_| invalid())
}

/// Lends a descriptor that Python owns to one system call.
///
/// # Errors
/// The call's own; EBADF for the number of a closed socket.
#[inline]
pub fn lend<T, E: From<Errno>>(
    fd: RawFd,
    call: impl FnOnce(BorrowedFd<'_>) -> Result<T, E>,
) -> Result<T, E> {
    if fd < 0 {
        return Err(Errno::BADF.into());
    }
    // SAFETY: `fd` is a number that a descriptor can have. The closure makes one system call and
    // keeps nothing; should the program have closed the descriptor, the kernel answers EBADF, and
    // a successor's registration carries another generation.
    call(unsafe { BorrowedFd::borrow_raw(fd) })
}
