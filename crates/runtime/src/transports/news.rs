//! What every kind of transport tells the world: its loop of a failure, the log, whoever waits for
//! its beginning, and the program that forgot to close it. Never changes a transport.

use pyo3::exceptions::PyResourceWarning;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::cpython::imports::imports;
use crate::errors;
use crate::event_loop::report;

/// `call_exception_handler` with the transport and its protocol.
pub fn tell(
    transport: &Bound<'_, PyAny>,
    event_loop: &Bound<'_, PyAny>,
    protocol: Option<&Bound<'_, PyAny>>,
    error: PyErr,
    message: &str,
) -> PyResult<()> {
    let py = transport.py();
    let details = PyDict::new(py);
    details.set_item("message", message)?;
    details.set_item("exception", error.into_value(py))?;
    details.set_item("transport", transport)?;
    details.set_item("protocol", protocol)?;
    report::call_exception_handler(event_loop, &details)
}

/// Debug mode: an error that is the peer's doing goes to the log, with its traceback.
pub fn log(transport: &Bound<'_, PyAny>, error: &Bound<'_, PyAny>, message: &str) -> PyResult<()> {
    let py = transport.py();
    let keywords = PyDict::new(py);
    keywords.set_item("exc_info", error)?;
    let logger = imports(py).logger.bind(py);
    let words = ("%r: %s", transport, message);
    logger.call_method(intern!(py, "debug"), words, Some(&keywords)).map(drop)
}

/// `connection_made` was called: whoever waits for it goes on, unless cancelled meanwhile.
pub fn wake(py: Python<'_>, waiter: Option<Py<PyAny>>) -> PyResult<()> {
    let Some(waiter) = waiter else { return Ok(()) };
    let waiter = waiter.bind(py);
    if waiter.call_method0(intern!(py, "done"))?.is_truthy()? {
        return Ok(());
    }
    waiter.call_method1(intern!(py, "set_result"), (py.None(),)).map(drop)
}

/// `ResourceWarning`, from the finalizer of a transport that nobody closed.
pub fn warn_unclosed(transport: &Bound<'_, PyAny>) {
    let py = transport.py();
    let warn = || -> PyResult<()> {
        let keywords = PyDict::new(py);
        keywords.set_item("source", transport)?;
        let message = format!("unclosed transport {}", errors::repr(transport));
        let category = py.get_type::<PyResourceWarning>();
        imports(py).warn.bind(py).call((message, category), Some(&keywords)).map(drop)
    };
    if let Err(error) = warn() {
        error.write_unraisable(py, Some(transport));
    }
}
