//! `StreamTransport`: one connected stream socket.
//!
//! This file is the class as Python sees it; its beginning and its end are in [`lifetime`], bytes
//! come in through [`reading`] and leave through [`writing`]. Behaviour and messages follow
//! `asyncio.selector_events._SelectorSocketTransport` of the newest CPython.

pub mod lifetime;
pub mod reading;
pub mod sendfile;
pub mod state;
pub mod writing;

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::cpython::slots::Finalize;
use crate::cpython::{context, descriptor};
use crate::event_loop::BaseEventLoop;
use crate::futures::Future;
use crate::protocols::Protocol;
use lifetime::Parts;
use state::{Descriptor, StreamState};

/// A connected stream socket and its protocol (`asyncio.Transport`).
#[pyclass(subclass, weakref, dict, frozen, module = "aioxide", name = "StreamTransport")]
pub struct StreamTransport {
    pub(crate) state: GilCell<StreamState>,
}

#[pymethods]
impl StreamTransport {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, pyo3::types::PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        StreamTransport { state: GilCell::new(StreamState::empty()) }
    }

    /// Takes over a connected, non-blocking Python socket; `lent` says that the caller of the
    /// loop keeps the socket object too, so that it may be closed behind our back.
    #[pyo3(signature = (r#loop, sock, protocol, waiter = None, extra = None, server = None, *,
                        lent = false))]
    #[allow(clippy::too_many_arguments)]
    fn __init__(
        this: &Bound<'_, Self>,
        r#loop: &Bound<'_, BaseEventLoop>,
        sock: &Bound<'_, PyAny>,
        protocol: &Bound<'_, PyAny>,
        waiter: Option<Py<PyAny>>,
        extra: Option<Py<PyDict>>,
        server: Option<Py<PyAny>>,
        lent: bool,
    ) -> PyResult<()> {
        let py = this.py();
        let fd = descriptor::number(sock)?;
        let parts = Parts {
            descriptor: Descriptor::Python { socket: sock.clone().unbind(), fd, lent },
            protocol: Protocol::new(protocol)?,
            context: context::copy_current(py)?,
            server,
            waiter,
            extra,
            peer: None,
        };
        StreamTransport::launch(this, r#loop, parts)
    }

    /// Sends bytes, now or when the socket takes them; never blocks.
    fn write(this: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        writing::write(this, data)
    }

    /// Sends an iterable of bytes objects, together where the kernel can.
    fn writelines(this: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        writing::writelines(this, list_of_data)
    }

    /// Closes the sending side once everything is sent; reading goes on.
    fn write_eof(this: &Bound<'_, Self>) -> PyResult<()> {
        writing::write_eof(this)
    }

    /// True: stream sockets can be closed in one direction.
    fn can_write_eof(&self) -> bool {
        true
    }

    /// Sends what is buffered, then closes; `connection_lost(None)` follows.
    fn close(this: &Bound<'_, Self>) -> PyResult<()> {
        StreamTransport::close_soon(this)
    }

    /// Closes at once; what is unsent is lost.
    fn abort(this: &Bound<'_, Self>) -> PyResult<()> {
        StreamTransport::force_close(this, None)
    }

    #[pyo3(name = "is_closing")]
    /// True when the transport is closing or closed.
    fn py_is_closing(&self, py: Python<'_>) -> bool {
        self.is_closing(py)
    }

    /// Stops calling `data_received` until `resume_reading()`.
    fn pause_reading(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let changed = this.get().state.with(py, |state| {
            let changed = !state.closing && !state.paused;
            state.paused |= changed;
            changed
        });
        if !changed {
            return Ok(());
        }
        this.get().rearm(py)?;
        StreamTransport::note(this, "%r pauses reading")
    }

    /// Takes up reading again.
    fn resume_reading(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let changed = this.get().state.with(py, |state| {
            let changed = !state.closing && state.paused;
            state.paused &= !changed;
            changed
        });
        if !changed {
            return Ok(());
        }
        this.get().rearm(py)?;
        StreamTransport::note(this, "%r resumes reading")
    }

    /// True when the transport receives data.
    fn is_reading(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| !state.closing && !state.paused)
    }

    /// Bytes accepted by `write()` and not yet taken by the kernel.
    fn get_write_buffer_size(&self, py: Python<'_>) -> usize {
        self.state.with(py, |state| state.buffer.len())
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
        writing::set_limits(this, high, low)
    }

    /// The protocol.
    fn get_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.protocol(py).map(|protocol| protocol.object(py).clone().unbind())
    }

    /// Hands the connection to another protocol.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = protocol.py();
        let protocol = Protocol::new(protocol)?;
        let old = self.state.with(py, |state| {
            state.protocol_connected |= state.begun && state.lost == 0;
            state.protocol.replace(protocol)
        });
        drop(old);
        Ok(())
    }

    /// What is known of the connection: "socket", "sockname", "peername".
    #[pyo3(signature = (name, default = None))]
    fn get_extra_info(
        this: &Bound<'_, Self>,
        name: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Option<Py<PyAny>>> {
        state::extra_info(this, name, default)
    }

    /// What a Python subclass inherits as its finalizer (`slots::install_finalizer`).
    fn __del__(this: &Bound<'_, Self>) {
        if StreamTransport::wants_finalizer(this) {
            StreamTransport::finalize(this);
        }
    }

    fn _force_close(this: &Bound<'_, Self>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        StreamTransport::force_close(this, exc)
    }

    #[pyo3(signature = (exc, message = "Fatal error on transport"))]
    fn _fatal_error(this: &Bound<'_, Self>, exc: &Bound<'_, PyAny>, message: &str) -> PyResult<()> {
        StreamTransport::fatal(this, PyErr::from_value(exc.clone()), message)
    }

    fn __repr__(this: &Bound<'_, Self>) -> PyResult<String> {
        state::describe(this)
    }

    /// `asyncio.Transport`, so that `isinstance` answers as for asyncio's own.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        imports(py).transport.clone_ref(py)
    }

    /// `loop.start_tls()` may put TLS between this transport and its protocol.
    #[classattr]
    fn _start_tls_compatible() -> bool {
        true
    }

    /// `loop.sendfile()` may give the socket to `os.sendfile`.
    #[getter]
    fn _sendfile_compatible<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        imports(py).sendfile_mode.bind(py).getattr(intern!(py, "TRY_NATIVE"))
    }

    /// Refuses `write()` until `_reset_empty_waiter()`; done once all that was written is sent.
    fn _make_empty_waiter(this: &Bound<'_, Self>) -> PyResult<Py<Future>> {
        sendfile::begin(this)
    }

    fn _reset_empty_waiter(this: &Bound<'_, Self>) -> PyResult<()> {
        sendfile::end(this)
    }

    fn _wait_writable(this: &Bound<'_, Self>) -> PyResult<Py<Future>> {
        sendfile::wait_writable(this)
    }

    #[getter]
    fn _protocol_paused(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.flow.is_paused())
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<BaseEventLoop>> {
        self.state.with(py, |state| state.home.as_ref().map(|home| home.clone_ref(py)))
    }

    #[getter]
    fn _protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.get_protocol(py)
    }

    #[getter]
    fn _closing(&self, py: Python<'_>) -> bool {
        self.is_closing(py)
    }

    #[getter]
    fn _paused(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.paused)
    }

    #[getter]
    fn _eof(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.eof_written)
    }

    #[getter]
    fn _conn_lost(&self, py: Python<'_>) -> u32 {
        self.state.with(py, |state| state.lost)
    }

    #[getter]
    fn _sock_fd(&self, py: Python<'_>) -> i32 {
        self.state.with(py, |state| state.descriptor.number())
    }

    #[getter]
    fn _sock(this: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        state::python_socket(this)
    }

    #[getter]
    fn _server(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.server.as_ref().map(|server| server.clone_ref(py)))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.peek(|state| state.traverse(&visit)).unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            drop(self.state.with(py, |state| std::mem::replace(state, StreamState::empty())));
        });
    }
}
