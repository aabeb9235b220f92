//! What a server of streams does with a connection: its handler is called with the two ends of the
//! stream, and what becomes of the handler is watched.

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::cpython::coroutine;
use crate::cpython::imports::imports;
use crate::event_loop::home::Home;

/// Calls the handler; a coroutine it returns becomes a task, which is returned.
pub fn handle<'py>(
    home: &Home,
    handler: &Bound<'py, PyAny>,
    reader: &Bound<'py, PyAny>,
    writer: &Bound<'py, PyAny>,
    transport: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = handler.py();
    let answer = handler.call1((reader, writer))?;
    let is_coroutine = coroutine::is_native(&answer)
        || imports(py).iscoroutine.bind(py).call1((&answer,))?.is_truthy()?;
    if !is_coroutine {
        return Ok(None);
    }
    let task = home.any(py).call_method1(intern!(py, "create_task"), (answer,))?;
    let watch = HandlerWatch { home: home.clone_ref(py), transport: transport.clone().unbind() };
    task.call_method1(intern!(py, "add_done_callback"), (Bound::new(py, watch)?,))?;
    Ok(Some(task))
}

/// Closes the connection whose handler failed or was cancelled, and tells of the failure.
#[pyclass(frozen, module = "aioxide._aioxide")]
pub struct HandlerWatch {
    home: Home,
    transport: Py<PyAny>,
}

#[pymethods]
impl HandlerWatch {
    fn __call__(&self, task: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = task.py();
        let close = || self.transport.bind(py).call_method0(intern!(py, "close")).map(drop);
        if task.call_method0(intern!(py, "cancelled"))?.is_truthy()? {
            return close();
        }
        let error = task.call_method0(intern!(py, "exception"))?;
        if error.is_none() {
            return Ok(());
        }
        let details = PyDict::new(py);
        details.set_item("message", "Unhandled exception in client_connected_cb")?;
        details.set_item("exception", error)?;
        details.set_item("transport", &self.transport)?;
        self.home.any(py).call_method1(intern!(py, "call_exception_handler"), (details,))?;
        close()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.home.traverse(&visit)?;
        visit.call(&self.transport)
    }
}
