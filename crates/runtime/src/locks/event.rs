//! `Event`: a flag that tasks wait for (`asyncio.locks.Event`).

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::LoopBound;
use super::waiters::{self, Waiters};
use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::futures::Future;

/// A flag; whoever waits goes on when it is set (`asyncio.Event`).
#[pyclass(frozen, subclass, weakref, dict, module = "aioxide", name = "Event")]
pub struct Event {
    bound: LoopBound,
    waiters: Waiters,
    flag: GilCell<bool>,
}

impl Event {
    /// An event that nobody waits for yet.
    pub fn make(py: Python<'_>, is_set: bool) -> PyResult<Bound<'_, Self>> {
        let event = Event {
            bound: LoopBound::made_here(py),
            waiters: Waiters::default(),
            flag: GilCell::new(is_set),
        };
        Bound::new(py, event)
    }
}

#[pymethods]
impl Event {
    #[new]
    #[pyo3(signature = (*args, **_kwargs), text_signature = "()")]
    fn new(args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        Event {
            bound: LoopBound::made_here(args.py()),
            waiters: Waiters::default(),
            flag: GilCell::new(false),
        }
    }

    /// Takes no arguments.
    fn __init__(&self) {}

    /// Whether the flag is set.
    #[inline]
    pub fn is_set(&self, py: Python<'_>) -> bool {
        self.flag.with(py, |flag| *flag)
    }

    /// Sets the flag: everybody who waits goes on, and nobody waits until it is cleared.
    pub fn set(&self, py: Python<'_>) -> PyResult<()> {
        if self.flag.with(py, |flag| std::mem::replace(flag, true)) {
            return Ok(());
        }
        // In asyncio too, one that another's waking completes meanwhile is passed over.
        for waiter in self.waiters.all_pending(py)? {
            if !waiters::is_done(&waiter)? {
                waiters::wake(&waiter)?;
            }
        }
        Ok(())
    }

    /// Clears the flag: who waits from now on waits for the next `set`.
    pub fn clear(&self, py: Python<'_>) {
        self.flag.with(py, |flag| *flag = false);
    }

    /// `wait` up to its `await`: None when the flag is set, otherwise the Future to wait for.
    fn _line_up<'py>(this: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, Future>>> {
        if this.get().is_set(this.py()) {
            return Ok(None);
        }
        this.get().waiters.line_up(&this.get().bound, this.as_any()).map(Some)
    }

    /// `wait` after its `await`, however that ended.
    fn _leave(&self, waiter: &Bound<'_, Future>) -> PyResult<()> {
        self.waiters.remove(waiter)
    }

    fn __repr__(this: &Bound<'_, Self>) -> PyResult<String> {
        let state = if this.get().is_set(this.py()) { "set" } else { "unset" };
        super::shown(this.as_any(), state, &this.get().waiters)
    }

    /// `asyncio.Event`, so that `isinstance` answers as for asyncio's own.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        imports(py).event.clone_ref(py)
    }

    #[getter]
    fn _value(&self, py: Python<'_>) -> bool {
        self.is_set(py)
    }

    #[setter(_value)]
    fn set_value(&self, py: Python<'_>, value: bool) {
        self.flag.with(py, |flag| *flag = value);
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

    /// The loop that runs, which is the event's from then on; RuntimeError when it has another.
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
