//! `Lock`: one task at a time, in the order they came (`asyncio.locks.Lock`).

use pyo3::PyTraverseError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::LoopBound;
use super::waiters::{self, Waiters};
use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::cpython::instances;
use crate::futures::Future;
use crate::settled::settled;

/// A lock for tasks of one loop, not for threads (`asyncio.Lock`).
///
/// Not owned by a task: any may release it. Waiting tasks get it in the order they came.
#[pyclass(frozen, subclass, weakref, dict, module = "aioxide", name = "Lock")]
pub struct Lock {
    bound: LoopBound,
    waiters: Waiters,
    locked: GilCell<bool>,
}

impl Lock {
    /// Takes the lock if it is free and nobody is before us.
    #[inline]
    fn try_acquire(&self, py: Python<'_>) -> PyResult<bool> {
        if self.locked(py) || self.waiters.are_alive(py)? {
            return Ok(false);
        }
        self.set_locked(py, true);
        Ok(true)
    }
}

#[pymethods]
impl Lock {
    #[new]
    #[pyo3(signature = (*args, **_kwargs), text_signature = "()")]
    fn new(args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Lock {
            bound: LoopBound::made_here(args.py()),
            waiters: Waiters::default(),
            locked: GilCell::new(false),
        }
    }

    /// Takes no arguments.
    fn __init__(&self) {}

    /// `acquire` up to its `await`: None when the lock is ours, otherwise the Future to wait for.
    fn _line_up<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, Future>>> {
        if this.get().try_acquire(this.py())? {
            return Ok(None);
        }
        this.get().waiters.line_up(&this.get().bound, this.as_any()).map(Some)
    }

    /// `acquire` after its `await`: the lock is ours.
    fn _take_turn(&self, waiter: &Bound<'_, Future>) -> PyResult<()> {
        self.waiters.remove(waiter)?;
        self.set_locked(waiter.py(), true);
        Ok(())
    }

    /// `acquire` after its `await` raised `error`: the lock is passed on, if it was meant for us.
    /// Also when the coroutine is closed while it waits: its turn is not lost.
    fn _give_up(&self, waiter: &Bound<'_, Future>, error: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = waiter.py();
        self.waiters.remove(waiter)?;
        let passed = if self.locked(py) { Ok(()) } else { self._wake_up_first(py) };
        super::unless_closing(error, passed)
    }

    /// Gives the lock up; the first who waits gets it. RuntimeError when it is not held.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        if !self.locked.with(py, std::mem::take) {
            return Err(PyRuntimeError::new_err("Lock is not acquired."));
        }
        self._wake_up_first(py)
    }

    /// Whether somebody holds the lock.
    #[inline]
    fn locked(&self, py: Python<'_>) -> bool {
        self.locked.with(py, |locked| *locked)
    }

    fn __aenter__<'py>(this: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = this.py();
        let plain = instances::is_plain::<Lock>(this.as_any());
        if plain && this.get().try_acquire(py)? {
            return settled(py);
        }
        super::enter(this.as_any(), plain)
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
        if instances::is_plain::<Lock>(this.as_any()) {
            this.get().release(py)?;
        } else {
            super::release_by_name(this.as_any())?;
        }
        settled(py)
    }

    fn __repr__(this: &Bound<'_, Self>) -> PyResult<String> {
        let locked = this.get().locked(this.py());
        let state = if locked { "locked" } else { "unlocked" };
        super::shown(this.as_any(), state, &this.get().waiters)
    }

    /// `asyncio.Lock`, so that `isinstance` answers as for asyncio's own.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        imports(py).lock.clone_ref(py)
    }

    /// Lets the first who waits go on, unless it was woken or cancelled already.
    fn _wake_up_first(&self, py: Python<'_>) -> PyResult<()> {
        match self.waiters.first(py)? {
            Some(first) if !waiters::is_done(&first)? => waiters::wake(&first),
            _ => Ok(()),
        }
    }

    /// Says in which line the program made this lock, where other code did so on its behalf.
    fn _made_at(&self, frame: &Bound<'_, PyAny>) {
        self.bound.note_site(frame);
    }

    #[getter(_locked)]
    fn locked_flag(&self, py: Python<'_>) -> bool {
        self.locked(py)
    }

    #[setter(_locked)]
    fn set_locked(&self, py: Python<'_>, value: bool) {
        self.locked.with(py, |locked| *locked = value);
    }

    #[getter]
    fn _waiters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.waiters.show(py)
    }

    #[setter(_waiters)]
    fn set_waiters(&self, value: &Bound<'_, PyAny>) {
        self.waiters.replace(value);
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.bound.any(py)
    }

    #[setter(_loop)]
    fn set_loop(&self, value: &Bound<'_, PyAny>) -> PyResult<()> {
        self.bound.set(value)
    }

    /// The loop that runs, which is the lock's from then on; RuntimeError when it has another.
    fn _get_loop(this: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Ok(this.get().bound.enter(this.as_any())?.into_any(this.py()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.bound.traverse(&visit)?;
        self.waiters.traverse(&visit)
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            self.bound.clear(py);
            self.waiters.clear(py);
        });
    }
}
