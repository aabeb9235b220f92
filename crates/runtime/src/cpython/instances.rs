//! What an instance of ours carries: attributes of its own, and the place that made it.
//!
//! Used by the classes of coordination, which go by name (`self.release()`) only where somebody may
//! have changed what a name means, and which say in their errors where an object was made.

use std::ffi::c_int;

use pyo3::PyTypeInfo;
use pyo3::ffi;
use pyo3::prelude::*;

/// Whether this is an instance of `T` itself, not of a subclass, that was given no attributes:
/// every method is then the one we know.
#[inline]
pub fn is_plain<T: PyTypeInfo>(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: a live object. Where its class says at which offset the dict is, a pointer to a dict
    // is stored there, or NULL as long as no attribute was set. Other layouts are not of ours.
    unsafe {
        let class = ffi::Py_TYPE(object.as_ptr());
        if class != T::type_object_raw(object.py()) {
            return false;
        }
        let offset = (*class).tp_dictoffset;
        if offset <= 0 {
            return false;
        }
        let place = object.as_ptr().cast::<u8>().add(offset as usize);
        let dict = *place.cast::<*mut ffi::PyObject>();
        dict.is_null() || ffi::PyDict_Size(dict) == 0
    }
}

/// A place in Python code. Which line it is gets looked up when somebody asks.
pub struct Site {
    code: Py<PyAny>,
    instruction: c_int,
}

impl Site {
    /// Where the Python code that is running stands; None outside of any.
    #[inline]
    pub fn here(py: Python<'_>) -> Option<Self> {
        // SAFETY: this thread is attached; the frame is borrowed from it and used before any other
        // call; `PyFrame_GetCode` gives a new reference and never fails.
        unsafe {
            let frame = ffi::PyEval_GetFrame();
            if frame.is_null() {
                return None;
            }
            let instruction = ffi::PyFrame_GetLasti(frame);
            let code = ffi::PyFrame_GetCode(frame).cast::<ffi::PyObject>();
            Some(Site { code: Bound::from_owned_ptr(py, code).unbind(), instruction })
        }
    }

    /// Where this frame stands; None if it is no frame.
    pub fn of(frame: &Bound<'_, PyAny>) -> Option<Self> {
        // SAFETY: the cast follows the type check; the rest is as above.
        unsafe {
            if ffi::PyFrame_Check(frame.as_ptr()) == 0 {
                return None;
            }
            let raw = frame.as_ptr().cast::<ffi::PyFrameObject>();
            let instruction = ffi::PyFrame_GetLasti(raw);
            let code = ffi::PyFrame_GetCode(raw).cast::<ffi::PyObject>();
            Some(Site { code: Bound::from_owned_ptr(frame.py(), code).unbind(), instruction })
        }
    }

    /// Another reference to the same place.
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        Site { code: self.code.clone_ref(py), instruction: self.instruction }
    }

    /// `file:line, in function`.
    pub fn describe(&self, py: Python<'_>) -> PyResult<String> {
        let code = self.code.bind(py);
        // SAFETY: a live code object; the function only reads its table of lines.
        let line = unsafe { ffi::PyCode_Addr2Line(code.as_ptr().cast(), self.instruction) };
        let file: String = code.getattr("co_filename")?.extract()?;
        let name: String = code.getattr("co_qualname")?.extract()?;
        Ok(format!("{file}:{line}, in {name}"))
    }
}
