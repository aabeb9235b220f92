//! Resuming a coroutine: send into it, throw into it, learn what came out.
//!
//! `PyIter_Send` answers "yielded, returned or raised" without building a `StopIteration`, which is
//! what makes a step cheap. Throwing has no such function and goes through the `throw` method.

use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use pyo3::{ffi, intern};

/// What a coroutine did when it was resumed.
pub enum Outcome<'py> {
    /// It suspended, handing this to whoever drives it.
    Yielded(Bound<'py, PyAny>),
    /// It returned.
    Returned(Bound<'py, PyAny>),
    /// It raised.
    Raised(PyErr),
}

/// `coroutine.send(None)`.
#[inline]
pub fn send<'py>(coroutine: &Bound<'py, PyAny>) -> Outcome<'py> {
    let py = coroutine.py();
    let mut result = std::ptr::null_mut();
    // SAFETY: `result` is written with a new reference unless the answer is an error.
    unsafe {
        match ffi::PyIter_Send(coroutine.as_ptr(), ffi::Py_None(), &mut result) {
            ffi::PySendResult::PYGEN_NEXT => Outcome::Yielded(Bound::from_owned_ptr(py, result)),
            ffi::PySendResult::PYGEN_RETURN => Outcome::Returned(Bound::from_owned_ptr(py, result)),
            ffi::PySendResult::PYGEN_ERROR => Outcome::Raised(PyErr::fetch(py)),
        }
    }
}

/// `coroutine.throw(exception)`.
pub fn throw<'py>(coroutine: &Bound<'py, PyAny>, exception: &Bound<'py, PyAny>) -> Outcome<'py> {
    let py = coroutine.py();
    match coroutine.call_method1(intern!(py, "throw"), (exception,)) {
        Ok(yielded) => Outcome::Yielded(yielded),
        Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
            match error.value(py).getattr(intern!(py, "value")) {
                Ok(value) => Outcome::Returned(value),
                Err(error) => Outcome::Raised(error),
            }
        }
        Err(error) => Outcome::Raised(error),
    }
}

/// Whether this is a generator, as `inspect.isgenerator` says.
pub fn is_generator(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a type check of a live object.
    unsafe { ffi::PyGen_CheckExact(object.as_ptr()) != 0 }
}

/// Whether this is a native coroutine, the kind `async def` makes.
pub fn is_native(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a type check of a live object.
    unsafe { ffi::PyCoro_CheckExact(object.as_ptr()) != 0 }
}
