//! Calling Python objects by vectorcall, with the arguments where they already are.
//!
//! Used where a call happens per callback or per message: no tuple is built for it.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

/// `callable(*arguments)`, the arguments read straight from the tuple's slots.
#[inline]
pub fn call<'py>(
    callable: &Bound<'py, PyAny>,
    arguments: Option<&Bound<'py, PyTuple>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = callable.py();
    // SAFETY: the tuple outlives the call and its item array holds `count` live objects;
    // a NULL answer has set an exception.
    unsafe {
        let result = match arguments {
            None => ffi::PyObject_CallNoArgs(callable.as_ptr()),
            Some(tuple) => {
                let count = ffi::PyTuple_GET_SIZE(tuple.as_ptr()) as usize;
                let items = (*tuple.as_ptr().cast::<ffi::PyTupleObject>()).ob_item.as_ptr();
                ffi::PyObject_Vectorcall(
                    callable.as_ptr(),
                    items.cast(),
                    count,
                    std::ptr::null_mut(),
                )
            }
        };
        Bound::from_owned_ptr_or_err(py, result)
    }
}

/// `receiver.name()`.
#[inline]
pub fn method0<'py>(
    receiver: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> PyResult<Bound<'py, PyAny>> {
    let arguments = [receiver.as_ptr()];
    // SAFETY: the array lives through the call; a NULL answer has set an exception.
    unsafe {
        let result = ffi::PyObject_VectorcallMethod(
            name.as_ptr(),
            arguments.as_ptr(),
            1 | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            std::ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(receiver.py(), result)
    }
}

/// `receiver.name(argument)`.
#[inline]
pub fn method1<'py>(
    receiver: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    argument: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let arguments = [receiver.as_ptr(), argument.as_ptr()];
    // SAFETY: the array lives through the call; a NULL answer has set an exception.
    unsafe {
        let result = ffi::PyObject_VectorcallMethod(
            name.as_ptr(),
            arguments.as_ptr(),
            2 | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            std::ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(receiver.py(), result)
    }
}

/// `receiver.name(first, second)`.
#[inline]
pub fn method2<'py>(
    receiver: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    first: &Bound<'py, PyAny>,
    second: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let arguments = [receiver.as_ptr(), first.as_ptr(), second.as_ptr()];
    // SAFETY: the array lives through the call; a NULL answer has set an exception.
    unsafe {
        let result = ffi::PyObject_VectorcallMethod(
            name.as_ptr(),
            arguments.as_ptr(),
            3 | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            std::ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(receiver.py(), result)
    }
}

/// `object.__setattr__(name, value)`, or `__delattr__` when there is no value: the generic way,
/// for classes that watch their attributes and then store them as any object would.
pub fn set_attribute(
    object: &Bound<'_, PyAny>,
    name: &Bound<'_, PyString>,
    value: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let value = value.map_or(std::ptr::null_mut(), |value| value.as_ptr());
    // SAFETY: live objects; NULL means delete; a non-zero answer has set an exception.
    if unsafe { ffi::PyObject_GenericSetAttr(object.as_ptr(), name.as_ptr(), value) } != 0 {
        return Err(PyErr::fetch(object.py()));
    }
    Ok(())
}

/// Whether `method` is a method that the compiled class of `owner` gave it: neither a subclass nor
/// the instance put a function of its own there.
#[inline]
pub fn is_own_method(method: &Bound<'_, PyAny>, owner: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a type check of a live object, and a look at a field that such objects have.
    unsafe {
        ffi::PyCFunction_Check(method.as_ptr()) != 0
            && ffi::PyCFunction_GetSelf(method.as_ptr()) == owner.as_ptr()
    }
}
