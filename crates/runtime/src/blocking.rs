//! A blocking call, as a Future: made by one of the loop's own Workers, never by the user's
//! executor.
//!
//! Used for host names. The worker attaches to the interpreter for the call, which gives it up
//! itself while it blocks (`socket.getaddrinfo` does).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::workers::{SubmitError, Workers};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::errors;
use crate::event_loop::BaseEventLoop;
use crate::event_loop::home::Home;
use crate::event_loop::mailbox::Posted;
use crate::futures::delivery::{Delivery, Outcome};
use crate::futures::{Future, Phase};

/// How many look-ups run at once; more of them queue.
const WORKERS: usize = 4;

/// How long closing a loop waits for a look-up that runs. One that takes longer is left alone
/// until the interpreter exits, which waits for it as for any thread.
pub const PATIENCE: Duration = Duration::from_secs(1);

/// How often a thread that waits for workers looks for Ctrl-C.
const GLANCE: Duration = Duration::from_millis(50);

/// Workers that were dismissed and had not come to their end.
static LEFT: Mutex<Vec<Arc<Workers>>> = Mutex::new(Vec::new());

/// Calls `function(*args)` on a worker; the Future has its outcome.
pub fn call(
    event_loop: &Bound<'_, BaseEventLoop>,
    function: Py<PyAny>,
    args: Py<PyTuple>,
) -> PyResult<Py<Future>> {
    let py = event_loop.py();
    // A look-up may outlive its loop, and must not keep its descriptors open.
    let kernel = Arc::downgrade(&event_loop.get().kernel(py)?);
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
            if promised.get().phase(py) != Phase::Pending {
                return;
            }
            let outcome = Outcome::of(py, function.bind(py).call1(args.bind(py)));
            if let Some(kernel) = kernel.upgrade() {
                let _ = kernel.mailbox.post(Posted::Finish(Delivery::new(promised, outcome)));
            }
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

/// Drops the calls that are queued and waits for those that run, for ever or for some time.
///
/// # Errors
/// `KeyboardInterrupt`, or what another signal's handler raises meanwhile.
pub fn dismiss(py: Python<'_>, workers: Arc<Workers>, patience: Option<Duration>) -> PyResult<()> {
    py.detach(|| workers.close());
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    left.push(Arc::clone(&workers));
    drop(left);
    join(py, &workers, patience)
}

/// Waits for the workers of every loop that was closed; called when the interpreter exits, because
/// a thread must not come back from a look-up while the interpreter goes.
pub fn join_all(py: Python<'_>) -> PyResult<()> {
    loop {
        let next = LEFT.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match next {
            Some(workers) => join(py, &workers, None)?,
            None => return Ok(()),
        }
    }
}

/// In a forked child, which has none of these threads and must not wait for them. The list's lock
/// is free: it is only ever held together with the interpreter, as whoever forks does.
pub fn forget_all() {
    let left = std::mem::take(&mut *LEFT.lock().unwrap_or_else(PoisonError::into_inner));
    std::mem::forget(left);
}

fn join(py: Python<'_>, workers: &Arc<Workers>, patience: Option<Duration>) -> PyResult<()> {
    let deadline = patience.map(|patience| Instant::now() + patience);
    loop {
        let rest = deadline.map_or(GLANCE, |it| it.saturating_duration_since(Instant::now()));
        if py.detach(|| workers.join(Some(rest.min(GLANCE)))) {
            let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
            left.retain(|other| !Arc::ptr_eq(other, workers));
            return Ok(());
        }
        if rest.is_zero() {
            return Ok(());
        }
        py.check_signals()?;
    }
}
