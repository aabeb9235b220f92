//! The life of a stream transport: it begins, is reported ready, fails, closes, ends.

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicUsize;

use engine::poller::{Interest, Readiness};
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyContext, PyDict};
use rustix::net::sockopt::set_tcp_nodelay;
use rustix::net::{AddressFamily, SocketAddrAny};

use super::state::{Descriptor, StreamState};
use super::{StreamTransport, reading, sendfile, writing};
use crate::cpython::cell::GilCell;
use crate::cpython::slots::Finalize;
use crate::cpython::{context, descriptor};
use crate::errors;
use crate::event_loop::BaseEventLoop;
use crate::event_loop::callback::Callback;
use crate::event_loop::report;
use crate::event_loop::source::{self, Source};
use crate::event_loop::turn::is_exit;
use crate::protocols::Protocol;
use crate::transports::{Transport, news};

/// What a connection is made of.
pub struct Parts {
    /// The socket.
    pub descriptor: Descriptor,
    /// Who receives its bytes.
    pub protocol: Protocol,
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
        let fd = parts.descriptor.number();
        let is_unix = |peer: &SocketAddrAny| peer.address_family() == AddressFamily::UNIX;
        if !parts.peer.as_ref().is_some_and(is_unix) {
            // Fails for what is not TCP, where there is nothing to switch off.
            let _ = descriptor::lend(fd, |fd| set_tcp_nodelay(fd, true));
        }
        let server = parts.server.as_ref().map(|server| server.clone_ref(py));
        let old = this.get().state.with(py, |state| {
            std::mem::replace(state, StreamState::new(event_loop.clone().unbind(), parts))
        });
        drop(old);
        let source = Source::Transport(Transport::Stream(this.clone().unbind()));
        let token = source::register(event_loop, fd, Interest::READ, source)?;
        this.get().state.with(py, |state| state.token = Some(token));
        if let Some(server) = server {
            server.bind(py).call_method1(intern!(py, "_attach"), (this,))?;
        }
        let begins = Box::new(Transport::Stream(this.clone().unbind()));
        event_loop.get().push(py, Callback::Begin(begins));
        Ok(())
    }

    /// A transport for a connection that a listener accepted.
    pub fn accepted(
        event_loop: &Bound<'_, BaseEventLoop>,
        socket: OwnedFd,
        peer: Option<SocketAddrAny>,
        protocol: Protocol,
        context: Py<PyContext>,
        server: Py<PyAny>,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let parts = Parts {
            descriptor: Descriptor::Owned(socket),
            protocol,
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
    pub fn begin(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let waiter = this.get().state.with(py, |state| {
            state.begun = true;
            state.protocol_connected = true;
            state.waiter.take()
        });
        let made = this.get().in_context(py, |protocol| protocol.connection_made(this.as_any()));
        if let Err(error) = made {
            if is_exit(py, &error) {
                return Err(error);
            }
            let message = "Fatal error: protocol.connection_made() call failed.";
            StreamTransport::fatal(this, error, message)?;
        }
        news::wake(py, waiter)
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
                readiness.writable && open && state.wants_to_write(),
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
    pub(super) fn rearm(&self, py: Python<'_>) -> PyResult<()> {
        let (token, home, interest) = self.state.with(py, |state| {
            let interest = Interest { read: state.wants_to_read(), write: state.wants_to_write() };
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
    pub(super) fn in_context<R>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&Protocol) -> PyResult<R>,
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
    pub(super) fn protocol(&self, py: Python<'_>) -> Option<Protocol> {
        self.state.with(py, |state| state.protocol.as_ref().map(|it| it.clone_ref(py)))
    }

    /// Closing, or its TLS is.
    pub fn is_leaving(&self, py: Python<'_>) -> bool {
        let (closing, tls) = self.state.with(py, |state| match &state.protocol {
            Some(Protocol::Tls(tls)) => (state.closing, Some(tls.clone_ref(py))),
            _ => (state.closing, None),
        });
        closing || tls.is_some_and(|tls| tls.get().is_leaving(py))
    }

    /// Closing, or closed.
    pub fn is_closing(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.closing)
    }

    /// Debug mode: logs `format`, which shows the transport.
    pub(super) fn note(this: &Bound<'_, Self>, format: &str) -> PyResult<()> {
        let py = this.py();
        let debug = this
            .get()
            .state
            .with(py, |state| state.home.as_ref().map(|home| home.clone_ref(py)))
            .is_some_and(|home| home.get().is_debug(py));
        if debug { report::note(py, (format, this)) } else { Ok(()) }
    }

    /// `_fatal_error`: tells the loop (an OSError is the peer's doing, and silent), then closes.
    pub(super) fn fatal(this: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        let py = this.py();
        let value = error.clone_ref(py).into_value(py).into_bound(py).into_any();
        let home = this.get().state.with(py, |state| state.home.as_ref().map(|h| h.clone_ref(py)));
        let Some(home) = home else { return Ok(()) };
        if !error.is_instance_of::<pyo3::exceptions::PyOSError>(py) {
            StreamTransport::tell(this, home.bind(py).as_any(), error, message)?;
        } else if home.get().is_debug(py) {
            news::log(this.as_any(), &value, message)?;
        }
        StreamTransport::force_close(this, Some(value.unbind()))
    }

    /// `call_exception_handler` with the transport and its protocol.
    pub(super) fn tell(
        this: &Bound<'_, Self>,
        event_loop: &Bound<'_, PyAny>,
        error: PyErr,
        message: &str,
    ) -> PyResult<()> {
        let protocol = this.get().protocol(this.py());
        let protocol = protocol.as_ref().map(|protocol| protocol.object(this.py()));
        news::tell(this.as_any(), event_loop, protocol, error, message)
    }

    /// `_force_close`: drops what is unsent and queues `connection_lost(exception)`.
    pub fn force_close(this: &Bound<'_, Self>, failure: Option<Py<PyAny>>) -> PyResult<()> {
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
    pub(super) fn queue_end(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        StreamTransport::unregister(this);
        sendfile::lost(this)?;
        let home = this.get().state.with(py, |state| state.home.as_ref().map(|h| h.clone_ref(py)));
        match home {
            Some(home) if !home.get().flags(py).closed => {
                let ends = Box::new(Transport::Stream(this.clone().unbind()));
                home.get().push(py, Callback::End(ends));
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

    pub(super) fn close_soon(this: &Bound<'_, Self>) -> PyResult<()> {
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

static ORIGINAL_DEALLOC: AtomicUsize = AtomicUsize::new(0);

impl Finalize for StreamTransport {
    fn wants_finalizer(this: &Bound<'_, Self>) -> bool {
        this.get().state.peek(|state| state.descriptor.is_open()).unwrap_or(false)
    }

    fn finalize(this: &Bound<'_, Self>) {
        let py = this.py();
        news::warn_unclosed(this.as_any());
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
