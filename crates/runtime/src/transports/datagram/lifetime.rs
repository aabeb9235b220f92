//! The life of a datagram transport: it begins, is reported ready, fails, closes, ends.

use std::sync::atomic::AtomicUsize;

use engine::poller::{Interest, Readiness};
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;

use super::state::DatagramState;
use super::{DatagramTransport, receiving, sending};
use crate::cpython::context;
use crate::cpython::slots::Finalize;
use crate::errors;
use crate::event_loop::BaseEventLoop;
use crate::event_loop::callback::Callback;
use crate::event_loop::report;
use crate::event_loop::source::{self, Source};
use crate::event_loop::turn::is_exit;
use crate::protocols::python::PythonProtocol;
use crate::transports::{Transport, news};

impl DatagramTransport {
    /// Registers the socket and queues `connection_made`.
    pub fn launch(
        this: &Bound<'_, Self>,
        event_loop: &Bound<'_, BaseEventLoop>,
        state: DatagramState,
    ) -> PyResult<()> {
        let py = this.py();
        let fd = state.number;
        drop(this.get().state.with(py, |place| std::mem::replace(place, state)));
        let source = Source::Transport(Transport::Datagram(this.clone().unbind()));
        let token = source::register(event_loop, fd, Interest::READ, source)?;
        this.get().state.with(py, |state| state.token = Some(token));
        let begins = Box::new(Transport::Datagram(this.clone().unbind()));
        event_loop.get().push(py, Callback::Begin(begins));
        Ok(())
    }

    /// `connection_made`, then reading, then the waiter.
    pub fn begin(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let waiter = this.get().state.with(py, |state| {
            state.begun = true;
            state.waiter.take()
        });
        let made = this.get().in_context(py, |protocol| protocol.connection_made(this.as_any()));
        if let Err(error) = made {
            if is_exit(py, &error) {
                return Err(error);
            }
            let message = "Fatal error: protocol.connection_made() call failed.";
            DatagramTransport::fatal(this, error, message)?;
        }
        news::wake(py, waiter)
    }

    /// The kernel reported the socket. An error that waits in it is read like a datagram, so it is
    /// looked for on the side that was asked about.
    #[inline]
    pub fn on_ready(
        this: &Bound<'_, Self>,
        event_loop: &Bound<'_, BaseEventLoop>,
        readiness: Readiness,
    ) -> PyResult<()> {
        let (readable, writable) = this.get().state.with(this.py(), |state| {
            let open = state.begun && state.lost == 0;
            (
                readiness.readable && open && state.wants_to_read(),
                readiness.writable && open && !state.queue.is_empty(),
            )
        });
        if readable {
            receiving::ready(this, event_loop)?;
        }
        if writable {
            sending::ready(this)?;
        }
        Ok(())
    }

    /// `connection_lost`, then the socket is closed.
    pub fn end(this: &Bound<'_, Self>, event_loop: &Bound<'_, BaseEventLoop>) -> PyResult<()> {
        let py = this.py();
        let (failure, begun) = this
            .get()
            .state
            .with(py, |state| (state.failure.take(), state.begun && state.protocol.is_some()));
        let told = if begun {
            this.get().in_context(py, |protocol| protocol.connection_lost(py, failure))
        } else {
            Ok(())
        };
        let (protocol, socket) =
            this.get().state.with(py, |state| (state.protocol.take(), state.socket.take()));
        if let Some(socket) = socket {
            socket.bind(py).call_method0(intern!(py, "close"))?;
        }
        let outcome = match told {
            Ok(()) => Ok(()),
            Err(error) => report::unless_exit(event_loop, error, |error| {
                let protocol = protocol.as_ref().map(|protocol| protocol.object(py));
                let message = "Exception in protocol.connection_lost()";
                news::tell(this.as_any(), event_loop.as_any(), protocol, error, message)
            }),
        };
        drop(protocol);
        outcome
    }

    fn unregister(this: &Bound<'_, Self>) {
        let py = this.py();
        let token = this.get().state.with(py, |state| state.token.take());
        let (Some(token), Some(home)) = (token, this.get().home(py)) else { return };
        let Ok(kernel) = home.get().kernel(py) else { return };
        drop(home.get().state.with(py, |state| state.sources.unregister(&kernel.poller, token)));
    }

    /// Tells the kernel what this transport waits for.
    pub(super) fn rearm(&self, py: Python<'_>) -> PyResult<()> {
        let (token, interest) = self.state.with(py, |state| {
            let interest = Interest { read: state.wants_to_read(), write: !state.queue.is_empty() };
            (state.token, interest)
        });
        let (Some(token), Some(home)) = (token, self.home(py)) else { return Ok(()) };
        let kernel = home.get().kernel(py)?;
        home.get()
            .state
            .with(py, |state| state.sources.arm(&kernel.poller, token, interest))
            .map_err(|error| errors::from_io(&error))
    }

    /// `pause_reading` and `resume_reading`.
    pub(super) fn set_paused(&self, py: Python<'_>, paused: bool) -> PyResult<()> {
        let changed = self.state.with(py, |state| {
            let changed = !state.closing && state.paused != paused;
            if changed {
                state.paused = paused;
            }
            changed
        });
        if changed { self.rearm(py) } else { Ok(()) }
    }

    /// The loop.
    pub(super) fn home(&self, py: Python<'_>) -> Option<Py<BaseEventLoop>> {
        self.state.with(py, |state| state.home.as_ref().map(|home| home.clone_ref(py)))
    }

    /// The protocol, without entering a context: for calls made from inside a callback.
    pub(super) fn protocol(&self, py: Python<'_>) -> Option<PythonProtocol> {
        self.state.with(py, |state| state.protocol.as_ref().map(|it| it.clone_ref(py)))
    }

    /// Runs a protocol method in the transport's context.
    pub(super) fn in_context<R>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&PythonProtocol) -> PyResult<R>,
    ) -> PyResult<R> {
        let context = self.state.with(py, |state| state.context.as_ref().map(|c| c.clone_ref(py)));
        let (Some(protocol), Some(context)) = (self.protocol(py), context) else {
            return Err(PyRuntimeError::new_err("the transport is closed"));
        };
        context::run_in(context.bind(py), || call(&protocol))?
    }

    /// Closing, or closed.
    pub fn is_closing(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.closing)
    }

    /// What a callback raised is reported, unless the program itself is to end; the endpoint lives.
    pub(super) fn reported(
        this: &Bound<'_, Self>,
        outcome: PyResult<()>,
        message: &str,
    ) -> PyResult<()> {
        let py = this.py();
        let Err(error) = outcome else { return Ok(()) };
        if is_exit(py, &error) {
            return Err(error);
        }
        let Some(home) = this.get().home(py) else { return Ok(()) };
        let protocol = this.get().protocol(py);
        let protocol = protocol.as_ref().map(|protocol| protocol.object(py));
        news::tell(this.as_any(), home.bind(py).as_any(), protocol, error, message)
    }

    /// `_fatal_error`: tells the loop (an OSError is silent), then closes.
    pub(super) fn fatal(this: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        let py = this.py();
        let value = error.clone_ref(py).into_value(py).into_any();
        let Some(home) = this.get().home(py) else { return Ok(()) };
        if !error.is_instance_of::<PyOSError>(py) {
            DatagramTransport::reported(this, Err(error), message)?;
        } else if home.get().is_debug(py) {
            news::log(this.as_any(), value.bind(py), message)?;
        }
        DatagramTransport::force_close(this, Some(value))
    }

    /// `_force_close`: drops what is unsent and queues `connection_lost(exception)`.
    pub(super) fn force_close(this: &Bound<'_, Self>, failure: Option<Py<PyAny>>) -> PyResult<()> {
        let unsent = this.get().state.with(this.py(), |state| {
            if state.lost > 0 {
                return None;
            }
            state.lost = 1;
            state.closing = true;
            state.failure = failure;
            Some(std::mem::take(&mut state.queue))
        });
        if unsent.is_none() {
            return Ok(());
        }
        drop(unsent);
        DatagramTransport::queue_end(this)
    }

    /// Stops watching the socket and queues the end.
    pub(super) fn queue_end(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        DatagramTransport::unregister(this);
        match this.get().home(py) {
            Some(home) if !home.get().flags(py).closed => {
                let ends = Box::new(Transport::Datagram(this.clone().unbind()));
                home.get().push(py, Callback::End(ends));
                Ok(())
            }
            Some(_) => Err(errors::closed_loop()),
            None => Ok(()),
        }
    }

    /// The descriptor was closed behind our back: this transport must never touch it again. The
    /// socket object knows that it is closed, so closing it once more hits nobody.
    pub fn lost_descriptor(this: &Bound<'_, Self>) -> PyResult<()> {
        this.get().state.with(this.py(), |state| state.token = None);
        let error = errors::from_errno(rustix::io::Errno::BADF).into_value(this.py()).into_any();
        DatagramTransport::force_close(this, Some(error))
    }

    pub(super) fn close_soon(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let (was_closing, flushed) = this.get().state.with(py, |state| {
            let was = std::mem::replace(&mut state.closing, true);
            let flushed = state.queue.is_empty();
            if !was && flushed {
                state.lost += 1;
            }
            (was, flushed)
        });
        if was_closing {
            return Ok(());
        }
        if flushed {
            return DatagramTransport::queue_end(this);
        }
        this.get().rearm(py)
    }
}

static ORIGINAL_DEALLOC: AtomicUsize = AtomicUsize::new(0);

impl Finalize for DatagramTransport {
    fn wants_finalizer(this: &Bound<'_, Self>) -> bool {
        this.get().state.peek(|state| state.socket.is_some()).unwrap_or(false)
    }

    fn finalize(this: &Bound<'_, Self>) {
        let py = this.py();
        news::warn_unclosed(this.as_any());
        let socket = this.get().state.with(py, |state| state.socket.take());
        if let Some(socket) = socket
            && let Err(error) = socket.bind(py).call_method0(intern!(py, "close"))
        {
            error.write_unraisable(py, Some(this.as_any()));
        }
    }

    fn original_dealloc() -> &'static AtomicUsize {
        &ORIGINAL_DEALLOC
    }
}
