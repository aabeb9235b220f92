//! The iterator that `await future` drives: yields the future once, then gives its result.

use pyo3::PyTraverseError;
use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::Future;
use super::completion;
use super::state::Phase;
use crate::cpython::cell::GilCell;
use crate::cpython::coroutine::Outcome;
use crate::cpython::slots::Resume;
use crate::cpython::version;

/// What `Future.__await__` returns (`_asyncio.FutureIter`).
#[pyclass(frozen, module = "aioxide")]
pub struct FutureIter {
    future: GilCell<Option<Py<Future>>>,
}

/// Starts awaiting `future`.
pub fn iterate(future: &Bound<'_, Future>) -> PyResult<Py<FutureIter>> {
    future.get().home(future.py())?;
    Py::new(future.py(), FutureIter { future: GilCell::new(Some(future.clone().unbind())) })
}

enum Next {
    Yield,
    NotAwaited,
    Done,
}

impl Resume for FutureIter {
    fn resume<'py>(this: &Bound<'py, Self>) -> Outcome<'py> {
        let py = this.py();
        let Some(future) = this.get().future.with(py, |it| it.as_ref().map(|it| it.clone_ref(py)))
        else {
            return Outcome::Returned(py.None().into_bound(py));
        };
        let future = future.into_bound(py);
        let next = future.get().state.with(py, |state| match state.phase {
            Phase::Pending if state.blocking => Next::NotAwaited,
            Phase::Pending => {
                state.blocking = true;
                Next::Yield
            }
            _ => Next::Done,
        });
        match next {
            Next::Yield => Outcome::Yielded(future.into_any()),
            Next::NotAwaited => {
                Outcome::Raised(PyRuntimeError::new_err("await wasn't used with future"))
            }
            Next::Done => {
                if let Some(taken) = this.get().future.with(py, Option::take) {
                    drop(taken.into_bound(py));
                }
                match completion::result(&future) {
                    Ok(result) => Outcome::Returned(result.into_bound(py)),
                    Err(error) => Outcome::Raised(error),
                }
            }
        }
    }
}

#[pymethods]
impl FutureIter {
    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    /// Replaced by the C-speed slot (`slots::install_resume`); kept so that the class is an
    /// iterator to `collections.abc`.
    fn __next__(this: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        match Self::resume(this) {
            Outcome::Yielded(future) => Ok(Some(future.unbind())),
            Outcome::Returned(result) => {
                Err(pyo3::exceptions::PyStopIteration::new_err((result.unbind(),)))
            }
            Outcome::Raised(error) => Err(error),
        }
    }

    fn send(this: &Bound<'_, Self>, value: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
        // What is sent into a future is of no use to it, as in asyncio.
        let _ = value;
        Self::__next__(this)
    }

    #[pyo3(signature = (r#type, value = None, traceback = None))]
    fn throw(
        this: &Bound<'_, Self>,
        r#type: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Option<Py<PyAny>>> {
        if version::WARNS_OF_OLD_THROW && (value.is_some() || traceback.is_some()) {
            old_throw(this.py())?;
        }
        drop(this.get().future.with(this.py(), Option::take));
        Err(thrown(r#type, value, traceback)?)
    }

    fn close(this: &Bound<'_, Self>) {
        drop(this.get().future.with(this.py(), Option::take));
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.future.peek(|future| visit.call(future)).unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| drop(self.future.with(py, Option::take)));
    }
}

/// CPython warns of the three-argument form from 3.12 on.
fn old_throw(py: Python<'_>) -> PyResult<()> {
    let category = py.get_type::<pyo3::exceptions::PyDeprecationWarning>();
    let message = c"the (type, exc, tb) signature of throw() is deprecated, \
                    use the single-arg signature instead.";
    PyErr::warn(py, category.as_any(), message, 1)
}

/// The exception that `throw(type, value, traceback)` means, in either of its two forms.
pub fn thrown(
    kind: &Bound<'_, PyAny>,
    value: Option<&Bound<'_, PyAny>>,
    traceback: Option<&Bound<'_, PyAny>>,
) -> PyResult<PyErr> {
    let py = kind.py();
    let traceback = traceback.filter(|traceback| !traceback.is_none());
    if let Some(traceback) = traceback
        && !traceback.is_instance_of::<pyo3::types::PyTraceback>()
    {
        return Err(PyTypeError::new_err("throw() third argument must be a traceback"));
    }
    let value = value.filter(|value| !value.is_none());
    let instance = if let Ok(class) = kind.cast::<PyType>() {
        match value {
            None => class.call0()?,
            Some(value) if value.is_instance(class)? => value.clone(),
            Some(value) => class.call1((value,))?,
        }
    } else {
        if value.is_some() {
            return Err(PyTypeError::new_err("instance exception may not have a separate value"));
        }
        kind.clone()
    };
    if !instance.is_instance_of::<pyo3::exceptions::PyBaseException>() {
        return Err(PyTypeError::new_err(format!(
            "exceptions must be classes deriving BaseException or instances of such a class, \
             not {}",
            instance.get_type().name()?
        )));
    }
    if let Some(traceback) = traceback {
        instance.setattr(intern!(py, "__traceback__"), traceback)?;
    }
    Ok(PyErr::from_value(instance))
}
