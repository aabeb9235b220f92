//! `Lock`: one task at a time, in the order they came (`asyncio.locks.Lock`).

use pyo3::PyTraverseError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::{LoopBound, Waiters, wake};
use crate::coroutines::{self, Body, Coroutine, Step};
use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::futures::Future;

#[derive(Default)]
struct LockState {
    locked: bool,
    waiters: Waiters,
}

/// A lock for tasks of one loop, not for threads (`asyncio.Lock`).
///
/// Not owned by a task: any may release it. Waiting tasks get it in the order they came.
#[pyclass(frozen, subclass, weakref, dict, module = "aioxide", name = "Lock")]
pub struct Lock {
    bound: LoopBound,
    state: GilCell<LockState>,
}

impl Lock {
    /// Takes the lock if it is free and nobody is before us.
    #[inline]
    fn try_acquire(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| {
            let free = !state.locked && state.waiters.are_all_cancelled(py);
            state.locked |= free;
            free
        })
    }

    /// `Lock.acquire` up to its `await`.
    pub fn begin_acquire(this: &Bound<'_, Self>) -> PyResult<Step> {
        let py = this.py();
        if this.get().try_acquire(py) {
            return Ok(Step::Return(true.into_pyobject(py)?.to_owned().into_any().unbind()));
        }
        let home = this.get().bound.enter(this.as_any())?;
        let future = Py::new(py, Future::pending(py, home)?)?;
        this.get().state.with(py, |state| state.waiters.0.push_back(future.clone_ref(py)));
        Ok(Step::Wait(future))
    }

    /// `Lock.acquire` from its `await` on. One who gives up passes the lock on, if it was meant
    /// for it.
    pub fn end_acquire(
        this: &Bound<'_, Self>,
        future: &Bound<'_, Future>,
        awaited: PyResult<Py<PyAny>>,
        tells: bool,
    ) -> PyResult<Step> {
        let py = this.py();
        let given_up = coroutines::is_cancellation(py, &awaited);
        let (removed, next) = this.get().state.with(py, |state| {
            let removed = state.waiters.remove(future);
            state.locked |= awaited.is_ok();
            let first = state.waiters.0.front().filter(|_| given_up && !state.locked);
            (removed, first.map(|first| first.clone_ref(py)))
        });
        drop(removed);
        wake(py, next)?;
        awaited?;
        Ok(Step::Return(if tells {
            true.into_pyobject(py)?.to_owned().into_any().unbind()
        } else {
            py.None()
        }))
    }
}

#[pymethods]
impl Lock {
    #[new]
    fn new() -> Self {
        Lock { bound: LoopBound::default(), state: GilCell::default() }
    }

    /// Waits until the lock is free and takes it; True.
    fn acquire<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, Coroutine>> {
        Coroutine::create(this.py(), Body::LockAcquire(this.clone().unbind()))
    }

    /// Gives the lock up; the first who waits gets it. RuntimeError when it is not held.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        let first = self.state.with(py, |state| {
            if !std::mem::take(&mut state.locked) {
                return Err(PyRuntimeError::new_err("Lock is not acquired."));
            }
            Ok(state.waiters.0.front().map(|first| first.clone_ref(py)))
        });
        wake(py, first?)
    }

    /// Whether somebody holds the lock.
    fn locked(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.locked)
    }

    fn __aenter__<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = this.py();
        if this.get().try_acquire(py) {
            return coroutines::settled(py);
        }
        Ok(Coroutine::create(py, Body::LockEnter(this.clone().unbind()))?.into_any())
    }

    #[pyo3(signature = (exc_type, exc, tb, /))]
    fn __aexit__<'py>(
        this: &Bound<'py, Self>,
        exc_type: &Bound<'py, PyAny>,
        exc: &Bound<'py, PyAny>,
        tb: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = (exc_type, exc, tb);
        let py = this.py();
        this.call_method0(pyo3::intern!(py, "release"))?;
        coroutines::settled(py)
    }

    fn __repr__(this: &Bound<'_, Self>) -> PyResult<String> {
        let (locked, waiting) =
            this.get().state.with(this.py(), |state| (state.locked, state.waiters.0.len()));
        let mut extra = if locked { "locked" } else { "unlocked" }.to_owned();
        if waiting > 0 {
            extra.push_str(&format!(", waiters:{waiting}"));
        }
        coroutines::shown_with(this.as_any(), &extra)
    }

    /// `asyncio.Lock`, so that `isinstance` answers as for asyncio's own.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        imports(py).lock.clone_ref(py)
    }

    #[getter]
    fn _locked(&self, py: Python<'_>) -> bool {
        self.locked(py)
    }

    #[getter]
    fn _waiters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        super::waiters_list(py, self.state.with(py, |state| state.waiters.copy(py)))
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.bound.any(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.bound.traverse(&visit)?;
        self.state.peek(|state| state.waiters.traverse(&visit)).unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            self.bound.clear(py);
            let old = self.state.with(py, std::mem::take);
            drop(old);
        });
    }
}
