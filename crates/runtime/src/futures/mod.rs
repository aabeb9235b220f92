//! `Future`: a result to come, with the semantics of `_asyncio.Future` on every Python.
//!
//! This file is the class as Python sees it; what happens when a future completes is in
//! [`completion`], how it is awaited in [`awaiting`], and the state itself in [`state`].

pub mod awaiting;
pub mod completion;
pub mod delivery;
pub mod state;

use std::sync::atomic::AtomicUsize;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyContext, PyDict, PyList, PyString, PyTuple, PyType};
use pyo3::{PyTraverseError, intern};

use crate::cpython::cell::GilCell;
use crate::cpython::context;
use crate::cpython::imports::imports;
use crate::cpython::slots::Finalize;
use crate::errors;
use crate::event_loop::home::Home;
pub use state::{DoneCallback, FutureState, Phase};

/// A result that will be there later; the lowest-level awaitable (`asyncio.Future`).
///
/// Future(*, loop=None): belongs to `loop`, or to the current event loop. Not thread-safe: another
/// thread completes it through `loop.call_soon_threadsafe(future.set_result, value)`.
#[pyclass(subclass, weakref, dict, frozen, module = "aioxide", name = "Future")]
pub struct Future {
    pub(crate) state: GilCell<FutureState>,
}

impl Future {
    /// A pending future of `home`; `debug` records where it was made.
    pub fn pending(py: Python<'_>, home: Home) -> PyResult<Self> {
        let source = if home.is_debug(py)? { Some(errors::extract_stack(py)?) } else { None };
        let mut state = FutureState::new();
        state.home = Some(home);
        state.source_traceback = source;
        Ok(Future { state: GilCell::new(state) })
    }

    /// The loop this future belongs to.
    ///
    /// # Errors
    /// `RuntimeError` when `__init__` was never called.
    pub fn home(&self, py: Python<'_>) -> PyResult<Home> {
        self.state
            .with(py, |state| state.home.as_ref().map(|home| home.clone_ref(py)))
            .ok_or_else(uninitialized)
    }

    /// Pending, cancelled or finished.
    #[inline]
    pub fn phase(&self, py: Python<'_>) -> Phase {
        self.state.with(py, |state| state.phase)
    }
}

fn uninitialized() -> PyErr {
    PyRuntimeError::new_err("Future object is not initialized.")
}

#[pymethods]
impl Future {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Future { state: GilCell::new(FutureState::new()) }
    }

    #[pyo3(signature = (*, r#loop = None))]
    fn __init__(this: &Bound<'_, Self>, r#loop: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        completion::initialize(this, r#loop)
    }

    /// The result; raises the exception, `CancelledError`, or `InvalidStateError` if not done.
    fn result(this: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        completion::result(this)
    }

    /// The exception set on this future, or None; raises as `result` does when there is neither.
    fn exception(this: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        completion::exception(this)
    }

    /// Marks the future done with a result; `InvalidStateError` when it is done already.
    fn set_result(this: &Bound<'_, Self>, result: Py<PyAny>) -> PyResult<()> {
        completion::set_result(this, result)
    }

    /// Marks the future done with an exception (an instance, or a class that is instantiated).
    fn set_exception(this: &Bound<'_, Self>, exception: &Bound<'_, PyAny>) -> PyResult<()> {
        completion::set_exception(this, exception)
    }

    /// Cancels the future and schedules its callbacks; False when it was done already.
    #[pyo3(signature = (msg = None))]
    fn cancel(this: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> PyResult<bool> {
        this.get().home(this.py())?;
        completion::cancel(this, msg)
    }

    /// True when the future was cancelled.
    fn cancelled(&self, py: Python<'_>) -> bool {
        self.phase(py) == Phase::Cancelled
    }

    /// True when there is a result or an exception, or the future was cancelled.
    fn done(&self, py: Python<'_>) -> bool {
        self.phase(py) != Phase::Pending
    }

    /// Calls `fn(future)` soon after the future is done, in `context` (a copy of the current one
    /// by default).
    #[pyo3(signature = (r#fn, /, *, context = None))]
    fn add_done_callback(
        this: &Bound<'_, Self>,
        r#fn: Py<PyAny>,
        context: Option<Py<PyContext>>,
    ) -> PyResult<()> {
        let py = this.py();
        this.get().home(py)?;
        let context = match context {
            Some(context) => context,
            None => context::copy_current(py)?,
        };
        completion::add_callback(this, DoneCallback::Call { callback: r#fn, context })
    }

    /// Removes every callback equal to `fn`; returns how many there were.
    #[pyo3(signature = (r#fn, /))]
    fn remove_done_callback(this: &Bound<'_, Self>, r#fn: &Bound<'_, PyAny>) -> PyResult<usize> {
        this.get().home(this.py())?;
        completion::remove_callback(this, r#fn)
    }

    /// The event loop this future belongs to.
    fn get_loop(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.home(py)?.into_any(py))
    }

    fn __await__(this: &Bound<'_, Self>) -> PyResult<Py<awaiting::FutureIter>> {
        awaiting::iterate(this)
    }

    fn __iter__(this: &Bound<'_, Self>) -> PyResult<Py<awaiting::FutureIter>> {
        awaiting::iterate(this)
    }

    fn __repr__(this: &Bound<'_, Self>) -> PyResult<String> {
        let py = this.py();
        this.get().home(py)?;
        let information = imports(py).future_repr_info.bind(py).call1((this,))?;
        errors::described(this.get_type().name()?, &information)
    }

    #[classmethod]
    fn __class_getitem__(
        class: &Bound<'_, PyType>,
        item: &Bound<'_, PyAny>,
    ) -> PyResult<Py<PyAny>> {
        Ok(imports(class.py()).generic_alias.bind(class.py()).call1((class, item))?.unbind())
    }

    /// `asyncio.Future`, so that `isinstance` and `asyncio.isfuture` answer as for asyncio's own.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        imports(py).future.clone_ref(py)
    }

    /// What a Python subclass inherits as its finalizer (`slots::install_finalizer`).
    fn __del__(this: &Bound<'_, Self>) {
        if Future::wants_finalizer(this) {
            Future::finalize(this);
        }
    }

    fn _make_cancelled_error(this: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        completion::make_cancelled_error(this)
    }

    #[getter(_state)]
    fn state_name<'py>(&self, py: Python<'py>) -> &Bound<'py, PyString> {
        match self.phase(py) {
            Phase::Pending => intern!(py, "PENDING"),
            Phase::Cancelled => intern!(py, "CANCELLED"),
            Phase::Finished => intern!(py, "FINISHED"),
        }
    }

    #[getter(_asyncio_future_blocking)]
    fn blocking(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.blocking)
    }

    #[setter(_asyncio_future_blocking)]
    fn set_blocking(&self, py: Python<'_>, value: bool) -> PyResult<()> {
        self.home(py)?;
        self.state.with(py, |state| state.blocking = value);
        Ok(())
    }

    #[getter(_loop)]
    fn loop_or_none(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.home(py).ok().map(|home| home.into_any(py))
    }

    #[getter(_callbacks)]
    fn callbacks<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyList>>> {
        completion::callbacks(this)
    }

    #[getter(_result)]
    fn result_or_none(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.result.as_ref().map(|result| result.clone_ref(py)))
    }

    #[getter(_exception)]
    fn exception_or_none(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.exception.as_ref().map(|error| error.clone_ref(py)))
    }

    #[getter(_log_traceback)]
    fn log_traceback(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.log_traceback)
    }

    #[setter(_log_traceback)]
    fn set_log_traceback(&self, py: Python<'_>, value: bool) -> PyResult<()> {
        if value {
            return Err(PyValueError::new_err("_log_traceback can only be set to False"));
        }
        self.state.with(py, |state| state.log_traceback = false);
        Ok(())
    }

    #[getter(_source_traceback)]
    fn source_traceback(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.source_traceback.as_ref().map(|it| it.clone_ref(py)))
    }

    #[setter(_source_traceback)]
    fn set_source_traceback(&self, py: Python<'_>, value: Option<Py<PyAny>>) {
        let old =
            self.state.with(py, |state| std::mem::replace(&mut state.source_traceback, value));
        drop(old);
    }

    #[getter(_cancel_message)]
    fn cancel_message(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.cancel_message.as_ref().map(|it| it.clone_ref(py)))
    }

    #[setter(_cancel_message)]
    fn set_cancel_message(&self, py: Python<'_>, value: Option<Py<PyAny>>) {
        let old = self.state.with(py, |state| std::mem::replace(&mut state.cancel_message, value));
        drop(old);
    }

    /// Tells the loop of the exception, as the finalizer would.
    fn _report_unretrieved(this: &Bound<'_, Self>) {
        completion::report_unretrieved(this);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.peek(|state| state.traverse(&visit)).unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| drop(self.state.with(py, std::mem::take)));
    }
}

static ORIGINAL_DEALLOC: AtomicUsize = AtomicUsize::new(0);

impl Finalize for Future {
    fn wants_finalizer(this: &Bound<'_, Self>) -> bool {
        this.get().state.peek(|state| state.log_traceback).unwrap_or(false)
    }

    fn finalize(this: &Bound<'_, Self>) {
        completion::report_unretrieved(this);
    }

    fn original_dealloc() -> &'static AtomicUsize {
        &ORIGINAL_DEALLOC
    }
}
