//! The only place of the runtime where an error becomes a Python exception.
//!
//! Also the few ways in which asyncio words things: representations, stacks, exception contexts.

use std::io;

use pyo3::exceptions::{PyBlockingIOError, PyInterruptedError, PyOSError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::cpython::imports::imports;

/// `asyncio.InvalidStateError(message)`.
pub fn invalid_state(py: Python<'_>, message: &str) -> PyErr {
    construct(imports(py).invalid_state_error.bind(py), message)
}

fn construct(class: &Bound<'_, PyAny>, message: &str) -> PyErr {
    match class.call1((message,)) {
        Ok(instance) => PyErr::from_value(instance),
        Err(error) => error,
    }
}

/// A new `asyncio.CancelledError`, with the message if there is one.
pub fn new_cancelled(py: Python<'_>, message: Option<&Py<PyAny>>) -> PyResult<Py<PyAny>> {
    let class = imports(py).cancelled_error.bind(py);
    let error = match message {
        Some(message) if !message.is_none(py) => class.call1((message,))?,
        _ => class.call0()?,
    };
    Ok(error.unbind())
}

/// Whether this is an `asyncio.CancelledError`.
pub fn is_cancelled(error: &Bound<'_, PyAny>) -> bool {
    let py = error.py();
    error.is_instance(imports(py).cancelled_error.bind(py)).unwrap_or(false)
}

/// Of an instance of `class` whose `__init__` was never called.
pub fn uninitialized(class: &str) -> PyErr {
    PyRuntimeError::new_err(format!("{class} object is not initialized."))
}

/// `RuntimeError('Event loop is closed')`, asyncio's words.
pub fn closed_loop() -> PyErr {
    PyRuntimeError::new_err("Event loop is closed")
}

/// A loop made before a fork, used in the child.
pub fn parents_loop() -> PyErr {
    PyRuntimeError::new_err(
        "this event loop belongs to the parent process: a forked child cannot use it; \
         make a new loop in the child (aioxide.new_event_loop)",
    )
}

/// `repr(object)`, for a message: a failing `__repr__` must not hide what is being reported.
pub fn repr(object: &Bound<'_, PyAny>) -> String {
    match object.repr() {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => match object.get_type().name() {
            Ok(name) => format!("<{name} object (its __repr__ failed)>"),
            Err(_) => "<object>".to_owned(),
        },
    }
}

/// `<Name info info>`, as `asyncio.base_futures._future_repr` joins what it knows.
pub fn described(name: Bound<'_, PyString>, information: &Bound<'_, PyAny>) -> PyResult<String> {
    let parts: Vec<String> = information.extract()?;
    Ok(format!("<{} {}>", name.to_string_lossy(), parts.join(" ")))
}

/// The stack of the Python code that is running (`asyncio.format_helpers.extract_stack`).
pub fn extract_stack(py: Python<'_>) -> PyResult<Py<PyAny>> {
    Ok(imports(py).extract_stack.bind(py).call0()?.unbind())
}

/// An operating system error as the `OSError` subclass Python has for its number.
pub fn from_io(error: &io::Error) -> PyErr {
    match error.raw_os_error() {
        Some(number) => PyOSError::new_err((number, strerror(number))),
        None => PyOSError::new_err(error.to_string()),
    }
}

/// Whether this is the exception of a call that would have waited: asked again later, it may not.
pub fn would_block(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyBlockingIOError>(py) || error.is_instance_of::<PyInterruptedError>(py)
}

/// What the C library calls this error, without Rust's "(os error N)".
fn strerror(number: i32) -> String {
    let text = io::Error::from_raw_os_error(number).to_string();
    match text.rfind(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// A rustix error number as Python's `OSError`.
pub fn from_errno(error: rustix::io::Errno) -> PyErr {
    from_io(&io::Error::from(error))
}
