//! `StreamTransport`: one connected stream socket.
//!
//! This file is the class as Python sees it, its beginning and its end; bytes come in through
//! [`reading`] and leave through [`writing`]. Behaviour and messages follow
//! `asyncio.selector_events._SelectorSocketTransport` of the newest CPython.

pub mod reading;
pub mod state;
pub mod writing;

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicUsize;

use engine::poller::{Interest, Readiness};
use pyo3::PyTraverseError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyContext, PyDict};
use rustix::net::SocketAddrAny;
use rustix::net::sockopt::set_tcp_nodelay;

use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::cpython::slots::Finalize;
use crate::cpython::{context, descriptor};
use crate::errors;
use crate::event_loop::BaseEventLoop;
use crate::event_loop::callback::Callback;
use crate::event_loop::report;
use crate::event_loop::source::Source;
use crate::event_loop::turn::is_exit;
use crate::protocols::python::PythonProtocol;
use state::{Descriptor, StreamState};

/// A connected stream socket and its protocol (`asyncio.Transport`).
#[pyclass(subclass, weakref, dict, frozen, module = "aioxide", name = "StreamTransport")]
pub struct StreamTransport {
    pub(crate) state: GilCell<StreamState>,
}

/// What a connection is made of.
pub struct Parts {
    /// The socket.
    pub descriptor: Descriptor,
    /// Who receives its bytes.
    pub protocol: PythonProtocol,
    /// What its callbacks run in.
    pub context: Py<PyContext>,
    /// The server it was accepted by.
    pub server: Option<Py<PyAny>>,
    /// Completed once `connection_made` was called.
    pub waiter: Option<Py<PyAny>>,
    /// What `get_extra_info` knows beside the socket.
    pub extra: Option<Py<PyDict>>,
    /// The other end, as `accept` named it.
    pub peer: Option<SocketAddrAny>,
}

impl StreamTransport {
    /// Registers the socket and queues `connection_made`.
    pub fn launch(
        this: &Bound<'_, Self>,
        event_loop: &Bound<'_, BaseEventLoop>,
        parts: Parts,
    ) -> PyResult<()> {
        let py = this.py();
        let kernel = event_loop.get().kernel(py)?;
        let fd = parts.descriptor.number();
        // Fails for what is not TCP, where there is nothing to switch off.
        let _ = descriptor::lend(fd, |fd| set_tcp_nodelay(fd, true));
        let server = parts.server.as_ref().map(|server| server.clone_ref(py));
        let old = this.get().state.with(py, |state| {
            std::mem::replace(state, StreamState::new(event_loop.clone().unbind(), parts))
        });
        drop(old);
        let source = Source::Stream(this.clone().unbind());
        let registered = event_loop
            .get()
            .state
            .with(py, |state| state.sources.register(&kernel.poller, fd, Interest::READ, source));
        let (token, stale) = registered.map_err(|(error, _source)| errors::from_io(&error))?;
        if let Some(Source::Stream(other)) = stale {
            StreamTransport::lost_descriptor(other.bind(py))?;
        }
        this.get().state.with(py, |state| state.token = Some(token));
        if let Some(server) = server {
            server.bind(py).call_method1(intern!(py, "_attach"), (this,))?;
        }
        event_loop.get().push(py, Callback::Begin(this.clone().unbind()));
        Ok(())
    }

    /// A transport for a connection that a listener accepted.
    pub fn accepted(
        event_loop: &Bound<'_, BaseEventLoop>,
        socket: OwnedFd,
        peer: Option<SocketAddrAny>,
        protocol: &Bound<'_, PyAny>,
        context: Py<PyContext>,
        server: Py<PyAny>,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let parts = Parts {
            descriptor: Descriptor::Owned(socket),
            protocol: PythonProtocol::new(protocol)?,
            context,
            server: Some(server),
            waiter: None,
            extra: None,
            peer,
        };
        let this = Bound::new(py, StreamTransport { state: GilCell::new(StreamState::empty()) })?;
        StreamTransport::launch(&this, event_loop, parts)
    }

    /// `connection_made`, then reading, then the waiter.
    pub fn begin(this: &Bound<'_, Self>, event_loop: &Bound<'_, BaseEventLoop>) -> PyResult<()> {
        let py = this.py();
        let (lost, waiter) = this.get().state.with(py, |state| {
            state.begun = true;
            state.protocol_connected = true;
            (state.lost > 0, state.waiter.take())
        });
        if !lost || this.get().state.with(py, |state| state.protocol.is_some()) {
            let made =
                this.get().in_context(py, |protocol| protocol.connection_made(this.as_any()));
            if let Err(error) = made {
                if is_exit(py, &error) {
                    return Err(error);
                }
                let message = "Fatal error: protocol.connection_made() call failed.";
                StreamTransport::fatal(this, error, message)?;
            }
        }
        let _ = event_loop;
        if let Some(waiter) = waiter {
            let waiter = waiter.bind(py);
            if !waiter.call_method0(intern!(py, "done"))?.is_truthy()? {
                waiter.call_method1(intern!(py, "set_result"), (py.None(),))?;
            }
        }
        Ok(())
    }

    /// The kernel reported the socket.
    #[inline]
    pub fn on_ready(
        this: &Bound<'_, Self>,
        event_loop: &Bound<'_, BaseEventLoop>,
        readiness: Readiness,
    ) -> PyResult<()> {
        let py = this.py();
        let (readable, writable) = this.get().state.with(py, |state| {
            let open = state.begun && state.lost == 0;
            (
                readiness.readable && open && state.wants_to_read(),
                readiness.writable && open && !state.buffer.is_empty(),
            )
        });
        if readable {
            reading::ready(this, event_loop)?;
        }
        if writable {
            writing::ready(this)?;
        }
        Ok(())
    }

    /// `connection_lost`, then the socket is closed.
    pub fn end(this: &Bound<'_, Self>, event_loop: &Bound<'_, BaseEventLoop>) -> PyResult<()> {
        let py = this.py();
        let (failure, connected) = this.get().state.with(py, |state| {
            (state.failure.take(), std::mem::take(&mut state.protocol_connected))
        });
        let told = if connected {
            this.get().in_context(py, |protocol| protocol.connection_lost(py, failure))
        } else {
            Ok(())
        };
        StreamTransport::release(this)?;
        match told {
            Ok(()) => Ok(()),
            Err(error) => report::unless_exit(event_loop, error, |error| {
                let message = "Exception in protocol.connection_lost()";
                StreamTransport::tell(this, event_loop.as_any(), error, message)
            }),
        }
    }

    /// Gives up the socket, the protocol and the server.
    fn release(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        this.get().remember_addresses(py);
        StreamTransport::unregister(this);
        let (descriptor, protocol, server) = this.get().state.with(py, |state| {
            (
                std::mem::replace(&mut state.descriptor, Descriptor::Closed),
                state.protocol.take(),
                state.server.take(),
            )
        });
        drop(protocol);
        descriptor.close(py)?;
        if let Some(server) = server {
            server.bind(py).call_method1(intern!(py, "_detach"), (this,))?;
        }
        Ok(())
    }

    fn unregister(this: &Bound<'_, Self>) {
        let py = this.py();
        let (token, home) = this.get().state.with(py, |state| {
            (state.token.take(), state.home.as_ref().map(|home| home.clone_ref(py)))
        });
        let (Some(token), Some(home)) = (token, home) else { return };
        let Ok(kernel) = home.get().kernel(py) else { return };
        drop(home.get().state.with(py, |state| state.sources.unregister(&kernel.poller, token)));
    }

    /// Tells the kernel what this transport waits for.
    fn rearm(&self, py: Python<'_>) -> PyResult<()> {
        let (token, home, interest) = self.state.with(py, |state| {
            let interest =
                Interest { read: state.wants_to_read(), write: !state.buffer.is_empty() };
            (state.token, state.home.as_ref().map(|home| home.clone_ref(py)), interest)
        });
        let (Some(token), Some(home)) = (token, home) else { return Ok(()) };
        let kernel = home.get().kernel(py)?;
        home.get()
            .state
            .with(py, |state| state.sources.arm(&kernel.poller, token, interest))
            .map_err(|error| errors::from_io(&error))
    }

    /// Runs a protocol method in the transport's context, or as it is when already inside.
    fn in_context<R>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&PythonProtocol) -> PyResult<R>,
    ) -> PyResult<R> {
        let (protocol, context) = self.state.with(py, |state| {
            (
                state.protocol.as_ref().map(|protocol| protocol.clone_ref(py)),
                state.context.as_ref().map(|context| context.clone_ref(py)),
            )
        });
        let (Some(protocol), Some(context)) = (protocol, context) else {
            return Err(PyRuntimeError::new_err("the transport is closed"));
        };
        context::run_in(context.bind(py), || call(&protocol))?
    }

    /// The protocol, without entering a context: for calls made from inside a callback.
    fn protocol(&self, py: Python<'_>) -> Option<PythonProtocol> {
        self.state.with(py, |state| state.protocol.as_ref().map(|it| it.clone_ref(py)))
    }

    /// Closing, or closed.
    pub fn is_closing(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.closing)
    }

    /// `_fatal_error`: tells the loop (an OSError is the peer's doing, and silent), then closes.
    fn fatal(this: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        let py = this.py();
        let value = error.value(py).clone().into_any();
        let home = this.get().state.with(py, |state| state.home.as_ref().map(|h| h.clone_ref(py)));
        let Some(home) = home else { return Ok(()) };
        if !error.is_instance_of::<pyo3::exceptions::PyOSError>(py) {
            StreamTransport::tell(this, home.bind(py).as_any(), error, message)?;
        } else if home.get().is_debug(py) {
            let keywords = PyDict::new(py);
            keywords.set_item("exc_info", &value)?;
            imports(py).logger.bind(py).call_method(
                intern!(py, "debug"),
                ("%r: %s", this, message),
                Some(&keywords),
            )?;
        }
        StreamTransport::force_close(this, Some(value.unbind()))
    }

    /// `call_exception_handler` with the transport and its protocol.
    fn tell(
        this: &Bound<'_, Self>,
        event_loop: &Bound<'_, PyAny>,
        error: PyErr,
        message: &str,
    ) -> PyResult<()> {
        let py = this.py();
        let details = PyDict::new(py);
        details.set_item("message", message)?;
        details.set_item("exception", error.into_value(py))?;
        details.set_item("transport", this)?;
        if let Some(protocol) = this.get().protocol(py) {
            details.set_item("protocol", protocol.object(py))?;
        }
        report::call_exception_handler(event_loop, &details)
    }

    /// `_force_close`: drops what is unsent and queues `connection_lost(exception)`.
    fn force_close(this: &Bound<'_, Self>, failure: Option<Py<PyAny>>) -> PyResult<()> {
        let py = this.py();
        let unsent = this.get().state.with(py, |state| {
            if state.lost > 0 {
                return None;
            }
            state.lost = 1;
            state.closing = true;
            state.failure = failure;
            Some(std::mem::take(&mut state.buffer))
        });
        if unsent.is_none() {
            return Ok(());
        }
        drop(unsent);
        StreamTransport::queue_end(this)
    }

    /// Stops watching the socket and queues the end.
    fn queue_end(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        StreamTransport::unregister(this);
        let home = this.get().state.with(py, |state| state.home.as_ref().map(|h| h.clone_ref(py)));
        match home {
            Some(home) if !home.get().flags(py).closed => {
                home.get().push(py, Callback::End(this.clone().unbind()));
                Ok(())
            }
            Some(_) => Err(errors::closed_loop()),
            None => Ok(()),
        }
    }

    /// The descriptor was closed behind our back and its number serves another connection:
    /// this transport must never touch it again.
    pub fn lost_descriptor(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let gone = this.get().state.with(py, |state| {
            state.token = None;
            std::mem::replace(&mut state.descriptor, Descriptor::Closed)
        });
        gone.abandon();
        let error = errors::from_errno(rustix::io::Errno::BADF).into_value(py).into_any();
        StreamTransport::force_close(this, Some(error))
    }

    fn close_soon(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let (was_closing, flushed) = this.get().state.with(py, |state| {
            let was = std::mem::replace(&mut state.closing, true);
            let flushed = state.buffer.is_empty();
            if !was && flushed {
                state.lost += 1;
            }
            (was, flushed)
        });
        if was_closing {
            return Ok(());
        }
        if flushed {
            return StreamTransport::queue_end(this);
        }
        this.get().rearm(py)
    }
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
            protocol: PythonProtocol::new(protocol)?,
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
    fn pause_reading(&self, py: Python<'_>) -> PyResult<()> {
        let changed = self.state.with(py, |state| {
            let changed = !state.closing && !state.paused;
            state.paused |= changed;
            changed
        });
        if changed { self.rearm(py) } else { Ok(()) }
    }

    /// Takes up reading again.
    fn resume_reading(&self, py: Python<'_>) -> PyResult<()> {
        let changed = self.state.with(py, |state| {
            let changed = !state.closing && state.paused;
            state.paused &= !changed;
            changed
        });
        if changed { self.rearm(py) } else { Ok(()) }
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
        self.state.with(py, |state| (state.marks.low(), state.marks.high()))
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
        let protocol = PythonProtocol::new(protocol)?;
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

static ORIGINAL_DEALLOC: AtomicUsize = AtomicUsize::new(0);

impl Finalize for StreamTransport {
    fn wants_finalizer(this: &Bound<'_, Self>) -> bool {
        this.get().state.peek(|state| state.descriptor.is_open()).unwrap_or(false)
    }

    fn finalize(this: &Bound<'_, Self>) {
        let py = this.py();
        let warn = || -> PyResult<()> {
            let keywords = PyDict::new(py);
            keywords.set_item("source", this)?;
            let message = format!("unclosed transport {}", errors::repr(this.as_any()));
            let category = py.get_type::<pyo3::exceptions::PyResourceWarning>();
            imports(py).warn.bind(py).call((message, category), Some(&keywords)).map(drop)
        };
        if let Err(error) = warn() {
            error.write_unraisable(py, Some(this.as_any()));
        }
        let descriptor = this
            .get()
            .state
            .with(py, |state| std::mem::replace(&mut state.descriptor, Descriptor::Closed));
        if let Err(error) = descriptor.close(py) {
            error.write_unraisable(py, Some(this.as_any()));
        }
    }

    fn original_dealloc() -> &'static AtomicUsize {
        &ORIGINAL_DEALLOC
    }
}
