//! The locks of asyncio: which task goes on, and in which order.
//!
//! Semantics and messages are those of `Lib/asyncio/locks.py` of the newest CPython, on every
//! Python. What is free at once is taken without a Future and without a turn of the loop.

pub mod lock;

use std::collections::VecDeque;

use pyo3::PyTraverseError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::errors;
use crate::event_loop::home::Home;
use crate::futures::{Future, Phase, completion};

/// The loop in which somebody waited first (`asyncio.mixins._LoopBoundMixin`).
#[derive(Default)]
pub struct LoopBound {
    home: GilCell<Option<Home>>,
}

impl LoopBound {
    /// The running loop, which becomes the loop of `owner` if it has none.
    ///
    /// # Errors
    /// `RuntimeError` when `owner` was waited for in another loop.
    pub fn enter(&self, owner: &Bound<'_, PyAny>) -> PyResult<Home> {
        let py = owner.py();
        let running = imports(py).get_running_loop.bind(py).call0()?;
        if running.is_none() {
            return Err(PyRuntimeError::new_err("no running event loop"));
        }
        let running = Home::of(py, Some(&running))?;
        let other = self.home.with(py, |home| match home {
            Some(home) if home.is_same(&running) => None,
            Some(home) => Some(home.clone_ref(py)),
            None => {
                *home = Some(running.clone_ref(py));
                None
            }
        });
        match other {
            None => Ok(running),
            Some(other) => Err(PyRuntimeError::new_err(format!(
                "{} is bound to a different event loop: to {}, and this is {}",
                errors::repr(owner),
                errors::repr(other.any(py)),
                errors::repr(running.any(py)),
            ))),
        }
    }

    /// The loop, or None: asyncio's `_loop`.
    pub fn any(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.home.with(py, |home| home.as_ref().map(|home| home.clone_ref(py).into_any(py)))
    }

    /// Shows the loop to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.home
            .peek(|home| home.as_ref().map_or(Ok(()), |it| it.traverse(visit)))
            .unwrap_or(Ok(()))
    }

    /// Forgets the loop, for the collector.
    pub fn clear(&self, py: Python<'_>) {
        let old = self.home.with(py, Option::take);
        drop(old);
    }
}

/// Who waits, in the order they came (`_waiters`).
#[derive(Default)]
pub struct Waiters(pub VecDeque<Py<Future>>);

impl Waiters {
    /// Nobody waits but those who were cancelled and have not noticed yet.
    pub fn are_all_cancelled(&self, py: Python<'_>) -> bool {
        self.0.iter().all(|future| future.get().phase(py) == Phase::Cancelled)
    }

    /// Takes one out; nearly always the first.
    pub fn remove(&mut self, future: &Bound<'_, Future>) -> Option<Py<Future>> {
        let place = self.0.iter().position(|candidate| candidate.is(future))?;
        self.0.remove(place)
    }

    /// As a list, for who looks at `_waiters`.
    pub fn copy<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, Future>> {
        self.0.iter().map(|future| future.bind(py).clone()).collect()
    }

    /// Shows them to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0.iter().try_for_each(|future| visit.call(future))
    }
}

/// A list of those who wait: `_waiters`.
pub fn waiters_list<'py>(
    py: Python<'py>,
    waiters: Vec<Bound<'py, Future>>,
) -> PyResult<Bound<'py, PyList>> {
    PyList::new(py, waiters)
}

/// Wakes this waiter, unless it is to wake up already or was cancelled.
pub fn wake(py: Python<'_>, waiter: Option<Py<Future>>) -> PyResult<()> {
    match waiter {
        Some(future) if future.get().phase(py) == Phase::Pending => completion::set_result(
            future.bind(py),
            true.into_pyobject(py)?.to_owned().into_any().unbind(),
        ),
        _ => Ok(()),
    }
}
