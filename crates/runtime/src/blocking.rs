//! A blocking call, as a Future: made by one of the loop's own Workers, never by the user's
//! executor.
//!
//! Used for host names. The worker attaches to the interpreter for the call, which gives it up
//! itself while it blocks (`socket.getaddrinfo` does).

use std::sync::Arc;

use engine::workers::{SubmitError, Workers};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::errors;
use crate::event_loop::BaseEventLoop;
use crate::event_loop::home::Home;
use crate::event_loop::mailbox::Posted;
use crate::futures::{Future, Phase, completion};

/// How many look-ups run at once; more of them queue.
const WORKERS: usize = 4;

/// A call that a worker finished.
pub struct Finished {
    future: Py<Future>,
    outcome: PyResult<Py<PyAny>>,
}

impl Finished {
    /// Completes the future, on the loop's thread. A future that was cancelled meanwhile stays so.
    pub fn deliver(self, py: Python<'_>) -> PyResult<()> {
        let future = self.future.bind(py);
        if future.get().phase(py) != Phase::Pending {
            return Ok(());
        }
        match self.outcome {
            Ok(result) => completion::set_result(future, result),
            Err(error) => completion::set_exception(future, error.into_value(py).bind(py)),
        }
    }
}

/// Calls `function(*args)` on a worker; the Future has its outcome.
pub fn call(
    event_loop: &Bound<'_, BaseEventLoop>,
    function: Py<PyAny>,
    args: Py<PyTuple>,
) -> PyResult<Py<Future>> {
    let py = event_loop.py();
    let kernel = event_loop.get().kernel(py)?;
    let workers = event_loop.get().state.with(py, |state| {
        Arc::clone(
            state.workers.get_or_insert_with(|| Arc::new(Workers::new("aioxide-names", WORKERS))),
        )
    });
    let home = Home::Native(event_loop.clone().unbind());
    let future = Py::new(py, Future::pending(py, home)?)?;
    let promised = future.clone_ref(py);
    let job = Box::new(move || {
        // No interpreter any more: nobody waits for the answer either.
        let _ = Python::try_attach(|py| {
            let outcome = function.bind(py).call1(args.bind(py)).map(Bound::unbind);
            let _ = kernel.mailbox.post(Posted::Finish(Finished { future: promised, outcome }));
            drop((function, args));
        });
    });
    match workers.submit(job) {
        Ok(()) => Ok(future),
        Err(SubmitError::Closed) => Err(errors::closed_loop()),
        Err(SubmitError::NoThread(error)) => {
            Err(PyRuntimeError::new_err(format!("can't start a worker thread: {error}")))
        }
    }
}
