//! A file on its way through a transport: `loop.sendfile` waits here, and sends by itself.
//!
//! While it does, `write` is refused. Its waits end with an exception when the connection does, so
//! nobody waits for a socket that is gone. Never reads the file and never writes to the socket.

use pyo3::exceptions::{PyConnectionError, PyRuntimeError};
use pyo3::prelude::*;

use super::StreamTransport;
use crate::event_loop::home::Home;
use crate::futures::{Future, Phase, completion};

fn closed_by_peer() -> PyErr {
    PyConnectionError::new_err("Connection is closed by peer")
}

/// A Future that is done when nothing waits to be written and the socket takes bytes.
pub fn wait_writable(this: &Bound<'_, StreamTransport>) -> PyResult<Py<Future>> {
    let py = this.py();
    let (lost, home) = this
        .get()
        .state
        .with(py, |state| (state.lost > 0, state.home.as_ref().map(|home| home.clone_ref(py))));
    let (false, Some(home)) = (lost, home) else { return Err(closed_by_peer()) };
    let future = Py::new(py, Future::pending(py, Home::Native(home))?)?;
    let kept = future.clone_ref(py);
    drop(this.get().state.with(py, |state| state.file_waiter.replace(kept)));
    this.get().rearm(py)?;
    Ok(future)
}

/// A file is to follow what is written: from now on `write` is refused.
///
/// # Errors
/// `RuntimeError` when another file is on its way; `ConnectionError` when the connection is gone.
pub fn begin(this: &Bound<'_, StreamTransport>) -> PyResult<Py<Future>> {
    let taken = this.get().state.with(this.py(), |state| std::mem::replace(&mut state.file, true));
    if taken {
        return Err(PyRuntimeError::new_err("Empty waiter is already set"));
    }
    let ready = wait_writable(this);
    if ready.is_err() {
        this.get().state.with(this.py(), |state| state.file = false);
    }
    ready
}

/// The file is sent, or given up: writing is allowed again.
pub fn end(this: &Bound<'_, StreamTransport>) -> PyResult<()> {
    let py = this.py();
    let waiter = this.get().state.with(py, |state| {
        state.file = false;
        state.file_waiter.take()
    });
    drop(waiter);
    this.get().rearm(py)
}

/// The socket takes bytes, and nothing else waits for that.
pub fn ready(this: &Bound<'_, StreamTransport>) -> PyResult<()> {
    let py = this.py();
    let Some(waiter) = this.get().state.with(py, |state| state.file_waiter.take()) else {
        return Ok(());
    };
    let waiter = waiter.bind(py);
    if waiter.get().phase(py) == Phase::Pending {
        completion::set_result(waiter, py.None())?;
    }
    Ok(())
}

/// The connection ends: whoever waits is told.
pub fn lost(this: &Bound<'_, StreamTransport>) -> PyResult<()> {
    let py = this.py();
    let Some(waiter) = this.get().state.with(py, |state| state.file_waiter.take()) else {
        return Ok(());
    };
    let waiter = waiter.bind(py);
    if waiter.get().phase(py) == Phase::Pending {
        completion::set_exception(waiter, closed_by_peer().into_value(py).bind(py))?;
    }
    Ok(())
}
