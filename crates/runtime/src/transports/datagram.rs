//! `DatagramTransport`: one datagram socket, connected or not, of any family.
//!
//! This file is the class as Python sees it; its beginning and its end are in [`lifetime`],
//! datagrams come in through [`receiving`] and leave through [`sending`]. Behaviour and messages
//! follow `asyncio.selector_events._SelectorDatagramTransport` of the newest CPython.

pub mod lifetime;
pub mod peers;
pub mod receiving;
pub mod sending;
pub mod state;

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyTuple, PyType};

use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::cpython::slots::Finalize;
use crate::event_loop::BaseEventLoop;
use crate::protocols::python::PythonProtocol;
use state::DatagramState;

/// A datagram socket and its protocol (`asyncio.DatagramTransport`).
#[pyclass(subclass, weakref, dict, frozen, module = "aioxide", name = "DatagramTransport")]
pub struct DatagramTransport {
    pub(crate) state: GilCell<DatagramState>,
}

static CLASS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// What `isinstance` is answered with; nobody makes an instance of it.
fn shown_class(py: Python<'_>) -> PyResult<Py<PyAny>> {
    let bases = (&imports(py).transport, &imports(py).datagram_transport);
    let content = PyDict::new(py);
    content.set_item("__module__", "aioxide")?;
    content.set_item("__slots__", PyTuple::empty(py))?;
    Ok(py.get_type::<PyType>().call1(("DatagramTransport", bases, content))?.unbind())
}

#[pymethods]
impl DatagramTransport {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        DatagramTransport { state: GilCell::new(DatagramState::empty()) }
    }

    /// Takes over a non-blocking Python socket. `address` is the only one that datagrams may be
    /// sent to; `extra` answers `get_extra_info`, its "peername" says that the socket is connected.
    #[pyo3(signature = (r#loop, sock, protocol, address = None, waiter = None, extra = None, *,
                        lent = false))]
    #[allow(clippy::too_many_arguments)]
    fn __init__(
        this: &Bound<'_, Self>,
        r#loop: &Bound<'_, BaseEventLoop>,
        sock: &Bound<'_, PyAny>,
        protocol: &Bound<'_, PyAny>,
        address: Option<Py<PyAny>>,
        waiter: Option<Py<PyAny>>,
        extra: Option<Py<PyDict>>,
        lent: bool,
    ) -> PyResult<()> {
        let state = DatagramState::new(r#loop, sock, protocol, address, waiter, extra, lent)?;
        DatagramTransport::launch(this, r#loop, state)
    }

    /// Sends one datagram, now or when the socket takes it; never blocks. `addr` is where to; None
    /// on a connected endpoint.
    #[pyo3(signature = (data, addr = None))]
    fn sendto(
        this: &Bound<'_, Self>,
        data: &Bound<'_, PyAny>,
        addr: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        sending::send_to(this, data, addr)
    }

    /// Sends what is buffered, then closes; `connection_lost(None)` follows.
    fn close(this: &Bound<'_, Self>) -> PyResult<()> {
        DatagramTransport::close_soon(this)
    }

    /// Closes at once; what is unsent is lost.
    fn abort(this: &Bound<'_, Self>) -> PyResult<()> {
        DatagramTransport::force_close(this, None)
    }

    #[pyo3(name = "is_closing")]
    /// True when the transport is closing or closed.
    fn py_is_closing(&self, py: Python<'_>) -> bool {
        self.is_closing(py)
    }

    /// Stops calling `datagram_received` until `resume_reading()`; the kernel keeps what it can.
    fn pause_reading(&self, py: Python<'_>) -> PyResult<()> {
        self.set_paused(py, true)
    }

    /// Takes up reading again.
    fn resume_reading(&self, py: Python<'_>) -> PyResult<()> {
        self.set_paused(py, false)
    }

    /// True when the transport receives datagrams.
    fn is_reading(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.wants_to_read())
    }

    /// Bytes accepted by `sendto()` and not yet taken by the kernel, eight more for each datagram.
    fn get_write_buffer_size(&self, py: Python<'_>) -> usize {
        self.state.with(py, |state| state.queue.size())
    }

    /// `(low, high)`, in bytes.
    fn get_write_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        self.state.with(py, |state| state.flow.limits())
    }

    /// Sets when `pause_writing` and `resume_writing` are called, in bytes buffered.
    #[pyo3(signature = (high = None, low = None))]
    fn set_write_buffer_limits(
        this: &Bound<'_, Self>,
        high: Option<isize>,
        low: Option<isize>,
    ) -> PyResult<()> {
        sending::set_limits(this, high, low)
    }

    /// The protocol.
    fn get_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.protocol(py).map(|protocol| protocol.object(py).clone().unbind())
    }

    /// Hands the endpoint to another protocol.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let new = PythonProtocol::new(protocol)?;
        drop(self.state.with(protocol.py(), |state| state.protocol.replace(new)));
        Ok(())
    }

    /// What is known of the endpoint: "socket", "sockname", "peername".
    #[pyo3(signature = (name, default = None))]
    fn get_extra_info(
        &self,
        name: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Option<Py<PyAny>>> {
        let py = name.py();
        let extra = self.state.with(py, |state| state.extra.as_ref().map(|e| e.clone_ref(py)));
        let Some(extra) = extra else { return Ok(default) };
        Ok(extra.bind(py).get_item(name)?.map(Bound::unbind).or(default))
    }

    /// What a Python subclass inherits as its finalizer (`slots::install_finalizer`).
    fn __del__(this: &Bound<'_, Self>) {
        if DatagramTransport::wants_finalizer(this) {
            DatagramTransport::finalize(this);
        }
    }

    fn _force_close(this: &Bound<'_, Self>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        DatagramTransport::force_close(this, exc)
    }

    #[pyo3(signature = (exc, message = "Fatal error on transport"))]
    fn _fatal_error(this: &Bound<'_, Self>, exc: &Bound<'_, PyAny>, message: &str) -> PyResult<()> {
        DatagramTransport::fatal(this, PyErr::from_value(exc.clone()), message)
    }

    fn __repr__(this: &Bound<'_, Self>) -> PyResult<String> {
        state::describe(this)
    }

    /// An `asyncio.Transport` and an `asyncio.DatagramTransport`, as asyncio's own is.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        CLASS.get_or_try_init(py, || shown_class(py)).map(|class| class.clone_ref(py))
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<BaseEventLoop>> {
        self.home(py)
    }

    #[getter]
    fn _protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.get_protocol(py)
    }

    #[getter]
    fn _address(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.address.as_ref().map(|address| address.clone_ref(py)))
    }

    /// What waits to be sent, as `(data, address)`, in order.
    #[getter]
    fn _buffer<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let waiting = self.state.with(py, |state| state.queue.copy(py));
        PyList::new(py, waiting)
    }

    #[getter]
    fn _closing(&self, py: Python<'_>) -> bool {
        self.is_closing(py)
    }

    #[getter]
    fn _conn_lost(&self, py: Python<'_>) -> u32 {
        self.state.with(py, |state| state.lost)
    }

    #[getter]
    fn _sock_fd(&self, py: Python<'_>) -> i32 {
        self.state.with(py, |state| state.number)
    }

    #[getter]
    fn _sock(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.socket.as_ref().map(|socket| socket.clone_ref(py)))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.peek(|state| state.traverse(&visit)).unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            drop(self.state.with(py, |state| std::mem::replace(state, DatagramState::empty())));
        });
    }
}
