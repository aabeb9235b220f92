//! `Settled`: an awaitable that is done already and gives None.
//!
//! `__aexit__` of the locks, and `__aenter__` where nothing has to be waited for, have done their
//! work when they return it. It costs no coroutine and, since None needs no StopIteration, no
//! exception. One serves all.

use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;

use crate::futures::awaiting;

/// What is awaited to no end.
#[pyclass(frozen, module = "aioxide", name = "coroutine_done")]
pub struct Settled;

#[pymethods]
impl Settled {
    fn __await__(this: Py<Self>) -> Py<Self> {
        this
    }

    fn __iter__(this: Py<Self>) -> Py<Self> {
        this
    }

    /// Replaced, as `__await__` is, by a slot that costs next to nothing (`slots::install_ended`).
    fn __next__(&self) -> Option<Py<PyAny>> {
        None
    }

    #[pyo3(signature = (value, /))]
    fn send(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let _ = value;
        Err(PyStopIteration::new_err(()))
    }

    #[pyo3(signature = (r#type, value = None, traceback = None, /))]
    fn throw(
        &self,
        r#type: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        Err(awaiting::thrown(r#type, value, traceback)?)
    }

    fn close(&self) {}
}

static SETTLED: pyo3::sync::PyOnceLock<Py<Settled>> = pyo3::sync::PyOnceLock::new();

/// The awaitable that is done.
#[inline]
pub fn settled(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let settled = SETTLED.get_or_try_init(py, || Py::new(py, Settled))?;
    Ok(settled.bind(py).as_any().clone())
}
