//! `Listener`: a listening socket. Accepts what waits, makes a protocol and a transport for each.
//!
//! The socket object and the policy (`Server`) are Python's; what runs per connection is here.

use std::os::fd::AsRawFd;

use engine::poller::{Interest, Token};
use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyContext, PyDict};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};

use super::address;
use super::stream::StreamTransport;
use super::tls::layer::Purpose;
use super::tls::{Settings, TlsProtocol, Waiter};
use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::cpython::{context, descriptor};
use crate::errors;
use crate::event_loop::BaseEventLoop;
use crate::event_loop::report;
use crate::event_loop::source::{self, Source};
use crate::protocols::Protocol;

/// How long accepting pauses when the process is out of descriptors or memory, in seconds
/// (`asyncio.constants.ACCEPT_RETRY_DELAY`).
const RETRY_DELAY: f64 = 1.0;

struct ListenerState {
    token: Option<Token>,
    home: Option<Py<BaseEventLoop>>,
    socket: Option<Py<PyAny>>,
    factory: Option<Py<PyAny>>,
    server: Option<Py<PyAny>>,
    context: Option<Py<PyContext>>,
    tls: Option<Settings>,
    /// The last attempt found no descriptor or memory, and somebody was told.
    exhausted: bool,
}

impl ListenerState {
    const fn empty() -> Self {
        ListenerState {
            token: None,
            home: None,
            socket: None,
            factory: None,
            server: None,
            context: None,
            tls: None,
            exhausted: false,
        }
    }
}

/// One listening socket of a server.
#[pyclass(frozen, weakref, module = "aioxide._aioxide")]
pub struct Listener {
    fd: i32,
    backlog: usize,
    state: GilCell<ListenerState>,
}

/// What a listener needs for every connection, copied out of its state.
struct Serving {
    factory: Py<PyAny>,
    server: Py<PyAny>,
    context: Py<PyContext>,
    tls: Option<Settings>,
}

impl Listener {
    /// Connections wait: accept as many as the backlog holds.
    pub fn on_ready(this: &Bound<'_, Self>, event_loop: &Bound<'_, BaseEventLoop>) -> PyResult<()> {
        let py = this.py();
        for _ in 0..this.get().backlog {
            let serving = this.get().state.with(py, |state| {
                Some(Serving {
                    factory: state.factory.as_ref()?.clone_ref(py),
                    server: state.server.as_ref()?.clone_ref(py),
                    context: state.context.as_ref()?.clone_ref(py),
                    tls: state.tls.as_ref().map(|tls| tls.clone_ref(py)),
                })
            });
            let Some(serving) = serving else { return Ok(()) };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let answer = descriptor::lend(this.get().fd, |fd| acceptfrom_with(fd, flags));
            match answer {
                Ok((socket, peer)) => {
                    this.get().state.with(py, |state| state.exhausted = false);
                    if let Err(error) = connect(event_loop, serving, socket, peer) {
                        report::unless_exit(event_loop, error, |error| {
                            creation_failed(event_loop, error)
                        })?;
                    }
                }
                Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(()),
                Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                    return this.get().rest(event_loop, this, error);
                }
                Err(error) => {
                    this.get().disarm(py);
                    return Listener::failed(this, event_loop, error);
                }
            }
        }
        Ok(())
    }

    fn failed(
        this: &Bound<'_, Self>,
        event_loop: &Bound<'_, BaseEventLoop>,
        error: Errno,
    ) -> PyResult<()> {
        let details = this.get().details(this.py(), "Accept failed on a socket", error)?;
        report::call_exception_handler(event_loop.as_any(), &details)
    }

    fn details<'py>(
        &self,
        py: Python<'py>,
        message: &str,
        error: Errno,
    ) -> PyResult<Bound<'py, PyDict>> {
        let details = PyDict::new(py);
        details.set_item("message", message)?;
        details.set_item("exception", errors::from_errno(error).into_value(py))?;
        let socket = self.state.with(py, |state| state.socket.as_ref().map(|it| it.clone_ref(py)));
        if let Some(socket) = socket {
            let shown = imports(py).transport_socket.bind(py).call1((socket,))?;
            details.set_item("socket", shown)?;
        }
        Ok(details)
    }

    /// Out of descriptors or memory: say so, once, and try again later, instead of spinning.
    fn rest(
        &self,
        event_loop: &Bound<'_, BaseEventLoop>,
        this: &Bound<'_, Self>,
        error: Errno,
    ) -> PyResult<()> {
        let py = event_loop.py();
        if !self.state.with(py, |state| std::mem::replace(&mut state.exhausted, true)) {
            let details = self.details(py, "socket.accept() out of system resource", error)?;
            report::call_exception_handler(event_loop.as_any(), &details)?;
        }
        self.arm(py, Interest::NONE)?;
        let again = this.getattr(intern!(py, "_accept_again"))?;
        event_loop.call_method1(intern!(py, "call_later"), (RETRY_DELAY, again)).map(drop)
    }

    fn arm(&self, py: Python<'_>, interest: Interest) -> PyResult<()> {
        let (token, home) = self
            .state
            .with(py, |state| (state.token, state.home.as_ref().map(|home| home.clone_ref(py))));
        let (Some(token), Some(home)) = (token, home) else { return Ok(()) };
        let Ok(kernel) = home.get().kernel(py) else { return Ok(()) };
        home.get()
            .state
            .with(py, |state| state.sources.arm(&kernel.poller, token, interest))
            .map_err(|error| errors::from_io(&error))
    }

    fn disarm(&self, py: Python<'_>) {
        let old = self.state.with(py, |state| std::mem::replace(state, ListenerState::empty()));
        let (Some(token), Some(home)) = (old.token, old.home) else { return };
        let Ok(kernel) = home.get().kernel(py) else { return };
        drop(home.get().state.with(py, |state| state.sources.unregister(&kernel.poller, token)));
    }
}

/// One accepted connection: its own context, a protocol from the factory, TLS if there is to be
/// TLS, a transport.
fn connect(
    event_loop: &Bound<'_, BaseEventLoop>,
    serving: Serving,
    socket: std::os::fd::OwnedFd,
    peer: Option<rustix::net::SocketAddrAny>,
) -> PyResult<()> {
    let py = event_loop.py();
    if event_loop.get().is_debug(py) {
        let peer = match &peer {
            Some(peer) => address::to_python(py, peer)?,
            None => py.None(),
        };
        let number = socket.as_raw_fd();
        report::note(
            py,
            ("%r got a new connection from %r: fd=%d", &serving.server, peer, number),
        )?;
    }
    let own = context::copy(serving.context.bind(py))?;
    let protocol = context::run_in(own.bind(py), || serving.factory.bind(py).call0())??;
    let protocol = match serving.tls {
        None => Protocol::new(&protocol)?,
        Some(settings) => {
            let purpose = Purpose {
                server_side: true,
                server_hostname: None,
                calls_connection_made: true,
                waiter: Waiter::Server,
            };
            let layer = TlsProtocol::create(event_loop, &protocol, settings, purpose)?;
            Protocol::Tls(layer.unbind())
        }
    };
    StreamTransport::accepted(event_loop, socket, peer, protocol, own, serving.server)
}

fn creation_failed(event_loop: &Bound<'_, BaseEventLoop>, error: PyErr) -> PyResult<()> {
    let py = event_loop.py();
    let details = PyDict::new(py);
    details.set_item("message", "Error on transport creation for incoming connection")?;
    details.set_item("exception", error.into_value(py))?;
    report::call_exception_handler(event_loop.as_any(), &details)
}

#[pymethods]
impl Listener {
    /// Starts to accept on `sock`, a listening and non-blocking Python socket; `tls` is an
    /// SSLContext and the two timeouts of its connections.
    #[new]
    #[pyo3(signature = (r#loop, sock, factory, server, backlog, tls = None))]
    fn new(
        r#loop: &Bound<'_, BaseEventLoop>,
        sock: &Bound<'_, PyAny>,
        factory: Py<PyAny>,
        server: Py<PyAny>,
        backlog: usize,
        tls: Option<(Py<PyAny>, Py<PyAny>, Py<PyAny>)>,
    ) -> PyResult<Py<Self>> {
        let py = sock.py();
        let fd = descriptor::number(sock)?;
        let state = ListenerState {
            token: None,
            home: Some(r#loop.clone().unbind()),
            socket: Some(sock.clone().unbind()),
            factory: Some(factory),
            server: Some(server),
            context: Some(context::copy_current(py)?),
            tls: tls.map(|(context, handshake_timeout, shutdown_timeout)| Settings {
                context,
                handshake_timeout,
                shutdown_timeout,
            }),
            exhausted: false,
        };
        let listener = Listener { fd, backlog: backlog.max(1), state: GilCell::new(state) };
        let listener = Py::new(py, listener)?;
        let source = Source::Listener(listener.clone_ref(py));
        let token = source::register(r#loop, fd, Interest::READ, source)?;
        listener.get().state.with(py, |state| state.token = Some(token));
        Ok(listener)
    }

    /// Stops accepting; the socket is the caller's to close.
    fn stop(&self, py: Python<'_>) {
        self.disarm(py);
    }

    fn _accept_again(&self, py: Python<'_>) -> PyResult<()> {
        self.arm(py, Interest::READ)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state
            .peek(|state| {
                visit.call(&state.home)?;
                visit.call(&state.socket)?;
                visit.call(&state.factory)?;
                visit.call(&state.server)?;
                visit.call(&state.context)?;
                state.tls.as_ref().map_or(Ok(()), |tls| tls.traverse(&visit))
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            drop(self.state.with(py, |state| std::mem::replace(state, ListenerState::empty())));
        });
    }
}
