//! What a child's pipes tell goes on to the protocol of its process, with the number of the pipe.
//!
//! Made by the process transport (`python/aioxide/processes.py`), one for each pipe; asyncio's are
//! in `asyncio.base_subprocess`. It keeps no bytes.

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;

use crate::cpython::calls;
use crate::cpython::cell::GilCell;

struct ChildPipeState {
    process: Option<Py<PyAny>>,
    pipe: Option<Py<PyAny>>,
    disconnected: bool,
}

/// The protocol of one pipe of a child process.
#[pyclass(frozen, weakref, dict, module = "aioxide._aioxide")]
pub struct ChildPipe {
    /// 0, 1 or 2: the descriptor in the child.
    #[pyo3(get)]
    fd: i32,
    state: GilCell<ChildPipeState>,
}

impl ChildPipe {
    fn process(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.process.as_ref().map(|it| it.clone_ref(py)))
    }

    /// The protocol of the process, looked up each time: the program may replace it.
    fn receiver<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(process) = self.process(py) else { return Ok(None) };
        let protocol = process.bind(py).getattr(intern!(py, "_protocol"))?;
        Ok((!protocol.is_none()).then_some(protocol))
    }
}

#[pymethods]
impl ChildPipe {
    #[new]
    fn new(proc: Py<PyAny>, fd: i32) -> Self {
        let state = ChildPipeState { process: Some(proc), pipe: None, disconnected: false };
        ChildPipe { fd, state: GilCell::new(state) }
    }

    fn connection_made(&self, py: Python<'_>, transport: Py<PyAny>) {
        drop(self.state.with(py, |state| state.pipe.replace(transport)));
    }

    fn data_received(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = data.py();
        let Some(receiver) = self.receiver(py)? else { return Ok(()) };
        receiver.call_method1(intern!(py, "pipe_data_received"), (self.fd, data)).map(drop)
    }

    fn eof_received(&self) {}

    fn connection_lost(&self, py: Python<'_>, exc: Py<PyAny>) -> PyResult<()> {
        let process = self.state.with(py, |state| {
            state.disconnected = true;
            state.process.take()
        });
        let Some(process) = process else { return Ok(()) };
        let name = intern!(py, "_pipe_connection_lost");
        process.bind(py).call_method1(name, (self.fd, exc)).map(drop)
    }

    fn pause_writing(&self, py: Python<'_>) -> PyResult<()> {
        let Some(receiver) = self.receiver(py)? else { return Ok(()) };
        calls::method0(&receiver, intern!(py, "pause_writing")).map(drop)
    }

    fn resume_writing(&self, py: Python<'_>) -> PyResult<()> {
        let Some(receiver) = self.receiver(py)? else { return Ok(()) };
        calls::method0(&receiver, intern!(py, "resume_writing")).map(drop)
    }

    #[getter]
    fn proc(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.process(py)
    }

    #[getter]
    fn pipe(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.pipe.as_ref().map(|pipe| pipe.clone_ref(py)))
    }

    #[getter]
    fn disconnected(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.disconnected)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let pipe = self.pipe(py).unwrap_or_else(|| py.None());
        format!("<ChildPipe fd={} pipe={}>", self.fd, crate::errors::repr(pipe.bind(py)))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state
            .peek(|state| {
                visit.call(&state.process)?;
                visit.call(&state.pipe)
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            drop(self.state.with(py, |state| (state.process.take(), state.pipe.take())));
        });
    }
}
