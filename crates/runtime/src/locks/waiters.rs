//! `Waiters`: the Futures of those who wait, in the order they came.
//!
//! asyncio keeps them in a `collections.deque`, and some programs look into it, or even append to
//! it. So the line is ours until somebody asks for it; from then on it is that deque, seen and
//! changed by both sides, and what it holds may be another library's futures.

use std::collections::VecDeque;

use pyo3::exceptions::PyValueError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, intern};

use super::LoopBound;
use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::futures::{Future, Phase, completion};

enum Line {
    Ours(VecDeque<Py<Future>>),
    Shown(Py<PyAny>),
}

/// Who waits.
pub struct Waiters(GilCell<Line>);

impl Default for Waiters {
    fn default() -> Self {
        Waiters(GilCell::new(Line::Ours(VecDeque::new())))
    }
}

impl Waiters {
    /// Asks our own line; None when it was shown.
    #[inline]
    fn ours<R>(
        &self,
        py: Python<'_>,
        ask: impl FnOnce(&mut VecDeque<Py<Future>>) -> R,
    ) -> Option<R> {
        self.0.with(py, |line| match line {
            Line::Ours(line) => Some(ask(line)),
            Line::Shown(_) => None,
        })
    }

    /// What is in a line that was shown.
    #[cold]
    fn shown<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let line = self.0.with(py, |line| match line {
            Line::Shown(line) => Some(line.clone_ref(py)),
            Line::Ours(_) => None,
        });
        match line {
            Some(line) => line.bind(py).try_iter()?.collect(),
            None => Ok(Vec::new()),
        }
    }

    /// The deque itself (`_waiters`): made when somebody looks, and used from then on.
    pub fn show<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let copy = self.0.with(py, |line| match line {
            Line::Shown(line) => Err(line.clone_ref(py)),
            Line::Ours(line) => Ok(line.iter().map(|it| it.clone_ref(py)).collect::<Vec<_>>()),
        });
        match copy {
            Err(line) => Ok(line.into_bound(py)),
            Ok(copy) => {
                let line = imports(py).deque.bind(py).call1((copy,))?;
                self.replace(&line);
                Ok(line)
            }
        }
    }

    /// Puts another deque in the place of the line.
    pub fn replace(&self, line: &Bound<'_, PyAny>) {
        let shown = Line::Shown(line.clone().unbind());
        let old = self.0.with(line.py(), |line| std::mem::replace(line, shown));
        drop(old);
    }

    /// How many wait.
    #[inline]
    pub fn count(&self, py: Python<'_>) -> PyResult<usize> {
        match self.ours(py, |line| line.len()) {
            Some(count) => Ok(count),
            None => Ok(self.shown(py)?.len()),
        }
    }

    /// A new one at the end, in the loop of `owner`.
    #[inline]
    pub fn line_up<'py>(
        &self,
        bound: &LoopBound,
        owner: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, Future>> {
        let py = owner.py();
        let future = Bound::new(py, Future::pending(py, bound.enter(owner)?)?)?;
        self.push(&future)?;
        Ok(future)
    }

    #[inline]
    fn push(&self, future: &Bound<'_, Future>) -> PyResult<()> {
        let py = future.py();
        let shown = self.0.with(py, |line| match line {
            Line::Ours(line) => {
                line.push_back(future.clone().unbind());
                None
            }
            Line::Shown(line) => Some(line.clone_ref(py)),
        });
        match shown {
            None => Ok(()),
            Some(line) => line.bind(py).call_method1(intern!(py, "append"), (future,)).map(drop),
        }
    }

    /// Takes one out, if it is there; nearly always the first.
    #[inline]
    pub fn remove(&self, future: &Bound<'_, Future>) -> PyResult<()> {
        let py = future.py();
        let removed = self.0.with(py, |line| match line {
            Line::Ours(line) => {
                let place = line.iter().position(|candidate| candidate.is(future));
                Ok(place.and_then(|place| line.remove(place)))
            }
            Line::Shown(line) => Err(line.clone_ref(py)),
        });
        match removed {
            Ok(future) => {
                drop(future.map(|future| future.into_bound(py)));
                Ok(())
            }
            Err(line) => match line.bind(py).call_method1(intern!(py, "remove"), (future,)) {
                Err(error) if error.is_instance_of::<PyValueError>(py) => Ok(()),
                other => other.map(drop),
            },
        }
    }

    /// Whether somebody waits who was not cancelled.
    #[inline]
    pub fn are_alive(&self, py: Python<'_>) -> PyResult<bool> {
        let alive =
            self.ours(py, |line| line.iter().any(|it| it.get().phase(py) != Phase::Cancelled));
        if let Some(alive) = alive {
            return Ok(alive);
        }
        for waiter in self.shown(py)? {
            if !waiter.call_method0(intern!(py, "cancelled"))?.is_truthy()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The first of the line.
    #[inline]
    pub fn first<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.ours(py, |line| line.front().map(|it| it.clone_ref(py))) {
            Some(first) => Ok(first.map(|future| future.into_bound(py).into_any())),
            None => Ok(self.shown(py)?.into_iter().next()),
        }
    }

    /// The first who is neither woken nor cancelled; stays in line.
    #[inline]
    pub fn next_pending<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let next = self.ours(py, |line| {
            let pending = line.iter().find(|it| it.get().phase(py) == Phase::Pending);
            pending.map(|it| it.clone_ref(py))
        });
        match next {
            Some(next) => Ok(next.map(|future| future.into_bound(py).into_any())),
            None => Ok(self.all_pending(py)?.into_iter().next()),
        }
    }

    /// All who are neither woken nor cancelled; they stay in line.
    pub fn all_pending<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let copy = self.ours(py, |line| {
            let pending = line.iter().filter(|it| it.get().phase(py) == Phase::Pending);
            pending.map(|it| it.bind(py).as_any().clone()).collect::<Vec<_>>()
        });
        if let Some(copy) = copy {
            return Ok(copy);
        }
        let mut pending = Vec::new();
        for waiter in self.shown(py)? {
            if !is_done(&waiter)? {
                pending.push(waiter);
            }
        }
        Ok(pending)
    }

    /// Takes the first out of the line.
    #[inline]
    pub fn pop<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let popped = self.0.with(py, |line| match line {
            Line::Ours(line) => Ok(line.pop_front()),
            Line::Shown(line) => Err(line.clone_ref(py)),
        });
        match popped {
            Ok(future) => Ok(future.map(|future| future.into_bound(py).into_any())),
            Err(line) if line.bind(py).is_truthy()? => {
                line.bind(py).call_method0(intern!(py, "popleft")).map(Some)
            }
            Err(_) => Ok(None),
        }
    }

    /// Shows them to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.0
            .peek(|line| match line {
                Line::Ours(line) => line.iter().try_for_each(|future| visit.call(future)),
                Line::Shown(line) => visit.call(line),
            })
            .unwrap_or(Ok(()))
    }

    /// Forgets them, for the collector.
    pub fn clear(&self, py: Python<'_>) {
        let empty = Line::Ours(VecDeque::new());
        let old = self.0.with(py, |line| std::mem::replace(line, empty));
        drop(old);
    }
}

/// `waiter.done()`, of ours or of another library's future.
#[inline]
pub fn is_done(waiter: &Bound<'_, PyAny>) -> PyResult<bool> {
    let py = waiter.py();
    match waiter.cast_exact::<Future>() {
        Ok(future) => Ok(future.get().phase(py) != Phase::Pending),
        Err(_) => waiter.call_method0(intern!(py, "done"))?.is_truthy(),
    }
}

/// `waiter.set_result(None)`, for one that is not done. None, because any other result reaches the
/// coroutine that awaits it as a StopIteration, which costs as much as the waking.
#[inline]
pub fn wake(waiter: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = waiter.py();
    match waiter.cast_exact::<Future>() {
        Ok(future) => completion::set_result(future, py.None()),
        Err(_) => waiter.call_method1(intern!(py, "set_result"), (py.None(),)).map(drop),
    }
}
