//! `Delivery`: an outcome on its way to a future, from a thread that is not the loop's.
//!
//! Made by workers, by the default executor's threads and by links to concurrent futures. It
//! completes its future on the loop's own thread only, so that a future never changes while code
//! of the loop looks at it.

use std::sync::{Arc, Weak};

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;

use super::completion;
use super::{Future, Phase};
use crate::cpython::imports::imports;
use crate::event_loop::callback::Callback;
use crate::event_loop::home::Home;
use crate::event_loop::state::Kernel;

/// What the call, or the other future, came to.
pub enum Outcome {
    /// A result.
    Result(Py<PyAny>),
    /// An exception, as it was raised or set.
    Error(Py<PyAny>),
    /// The concurrent future was cancelled.
    Cancelled,
    /// A concurrent future of a class we do not know, which is asked on the loop's thread.
    Ask(Py<PyAny>),
}

impl Outcome {
    /// What a call came to.
    pub fn of(py: Python<'_>, called: PyResult<Bound<'_, PyAny>>) -> Self {
        match called {
            Ok(result) => Outcome::Result(result.unbind()),
            Err(error) => Outcome::Error(error.into_value(py).into_any()),
        }
    }
}

/// A loop that waits and is owed a wake-up. Whoever owes it may be slow, so it does not keep the
/// loop's descriptors open.
pub struct Parked(Weak<Kernel>);

impl Parked {
    /// Wakes the loop, unless it was closed meanwhile.
    pub fn wake(self) {
        if let Some(kernel) = self.0.upgrade() {
            kernel.mailbox.wake();
        }
    }
}

/// An outcome and the future it is for.
pub struct Delivery {
    future: Py<Future>,
    outcome: Outcome,
}

impl Delivery {
    /// An outcome for `future`.
    pub fn new(future: Py<Future>, outcome: Outcome) -> Self {
        Delivery { future, outcome }
    }

    /// Completes the future, on the loop's thread. A future that is done already (cancelled, that
    /// is) stays as it is.
    pub fn deliver(self, py: Python<'_>) -> PyResult<()> {
        let future = self.future.bind(py);
        if future.get().phase(py) != Phase::Pending {
            return Ok(());
        }
        let delivered = match self.outcome {
            Outcome::Result(result) => completion::set_result(future, result),
            Outcome::Error(error) => fail(future, error.bind(py)),
            Outcome::Cancelled => cancel(future),
            Outcome::Ask(source) => ask(future, source.bind(py)),
        };
        match delivered {
            // A concurrent future that cannot be asked: whoever waits learns of it.
            Err(error) if future.get().phase(py) == Phase::Pending => {
                completion::set_exception(future, error.into_value(py).bind(py))
            }
            delivered => delivered,
        }
    }

    /// Queues itself on the future's loop, whose turn comes next; from any thread that is attached.
    /// Returns what is to be woken when the loop is parked. With the loop closed it is dropped.
    pub fn post(self, py: Python<'_>) -> Option<Parked> {
        let Ok(Home::Native(native)) = self.future.get().home(py) else { return None };
        let mut held = Some(Callback::Deliver(Box::new(self)));
        let parked = native.get().state.with(py, |state| {
            let kernel = state.kernel.as_ref()?;
            if let Some(callback) = held.take() {
                state.ready.push_back(callback);
            }
            kernel.mailbox.is_parked().then(|| Parked(Arc::downgrade(kernel)))
        });
        drop(held);
        parked
    }

    /// Shows its objects to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.future)?;
        match &self.outcome {
            Outcome::Result(object) | Outcome::Error(object) | Outcome::Ask(object) => {
                visit.call(object)
            }
            Outcome::Cancelled => Ok(()),
        }
    }
}

/// `future.cancel()`, by its method: a subclass may have its own.
fn cancel(future: &Bound<'_, Future>) -> PyResult<()> {
    future.call_method0(intern!(future.py(), "cancel")).map(drop)
}

/// Errors of `concurrent.futures` become asyncio's of the same name.
fn fail(future: &Bound<'_, Future>, error: &Bound<'_, PyAny>) -> PyResult<()> {
    let converted = imports(future.py()).convert_future_error.bind(future.py()).call1((error,))?;
    completion::set_exception(future, &converted)
}

/// As `asyncio.futures._copy_future_state`.
fn ask(future: &Bound<'_, Future>, source: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = future.py();
    if source.call_method0(intern!(py, "cancelled"))?.is_truthy()? {
        return cancel(future);
    }
    let error = source.call_method0(intern!(py, "exception"))?;
    if !error.is_none() {
        return fail(future, &error);
    }
    let result = source.call_method0(intern!(py, "result"))?;
    completion::set_result(future, result.unbind())
}
