//! The life of a pipe transport: it begins, is reported ready, fails, closes, ends.
//!
//! Called by the loop (through `transports::Transport`) and by the classes' faces. Errors and their
//! words follow `asyncio.unix_events` of the newest CPython.

use std::os::fd::AsRawFd;

use engine::poller::Readiness;
use pyo3::exceptions::{PyOSError, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::state::{End, PipeState};
use super::{PipeTransport, reading, writing};
use crate::cpython::imports::imports;
use crate::cpython::{context, descriptor};
use crate::errors;
use crate::event_loop::BaseEventLoop;
use crate::event_loop::callback::Callback;
use crate::event_loop::source::{self, Source};
use crate::event_loop::turn::is_exit;
use crate::protocols::python::PythonProtocol;
use crate::transports::{Transport, news};

impl PipeTransport {
    fn as_transport(this: &Bound<'_, Self>) -> Transport {
        Transport::Pipe(this.clone().unbind())
    }

    pub(super) fn home(&self, py: Python<'_>) -> Option<Py<BaseEventLoop>> {
        self.state.with(py, |state| state.home.as_ref().map(|home| home.clone_ref(py)))
    }

    /// Takes what `__init__` was given and, unless the owner does it later, queues the beginning.
    pub(super) fn launch(this: &Bound<'_, Self>, state: PipeState) {
        let py = this.py();
        let at_once = !state.of_child;
        let home = state.home.as_ref().map(|home| home.clone_ref(py));
        let old = this.get().state.with(py, |place| std::mem::replace(place, state));
        drop(old);
        if let Some(home) = home.filter(|_| at_once) {
            let begins = Box::new(PipeTransport::as_transport(this));
            home.get().push(py, Callback::Begin(begins));
        }
    }

    /// `connection_made`, then the kernel is asked to report, then the waiter.
    pub fn begin(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let (waiter, begun) = this
            .get()
            .state
            .with(py, |state| (state.waiter.take(), std::mem::replace(&mut state.begun, true)));
        if begun {
            return Ok(());
        }
        let made = this.get().in_context(py, |protocol| protocol.connection_made(this.as_any()));
        PipeTransport::reported(this, made, "Exception in protocol.connection_made()")?;
        if let Err(error) = PipeTransport::rearm(this) {
            PipeTransport::fatal(this, error, "Fatal error on pipe transport")?;
        }
        news::wake(py, waiter)
    }

    /// The kernel reported the pipe.
    pub fn on_ready(
        this: &Bound<'_, Self>,
        event_loop: &Bound<'_, BaseEventLoop>,
        readiness: Readiness,
    ) -> PyResult<()> {
        let (end, interest) =
            this.get().state.with(this.py(), |state| (state.end, state.interest()));
        match end {
            End::Read if readiness.readable && interest.read => reading::ready(this, event_loop),
            End::Write { .. } if readiness.readable && interest.read => writing::reader_gone(this),
            End::Write { .. } if readiness.writable && interest.write => writing::ready(this),
            _ => Ok(()),
        }
    }

    /// Tells the kernel what this transport waits for.
    pub(super) fn rearm(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let (token, interest) = this.get().state.with(py, |state| (state.token, state.interest()));
        let Some(home) = this.get().home(py) else { return Ok(()) };
        let Some(token) = token else {
            // Registered only once there is something to wait for: `/dev/null` cannot be, and takes
            // every byte at once.
            return if interest.is_none() { Ok(()) } else { PipeTransport::register(this, &home) };
        };
        let kernel = home.get().kernel(py)?;
        home.get()
            .state
            .with(py, |state| state.sources.arm(&kernel.poller, token, interest))
            .map_err(|error| errors::from_io(&error))
    }

    /// The kernel knows a number once. Where the loop watches it for somebody else, as it does for
    /// the two transports of one terminal, a duplicate is registered.
    fn register(this: &Bound<'_, Self>, home: &Py<BaseEventLoop>) -> PyResult<()> {
        let py = this.py();
        let home = home.bind(py);
        let (fd, interest) = this.get().state.with(py, |state| (state.fd, state.interest()));
        let taken = home.get().state.with(py, |state| state.sources.by_descriptor(fd).is_some());
        let duplicate = if taken {
            let made = descriptor::lend(fd, |fd| fcntl_dupfd_cloexec(fd, 0));
            Some(made.map_err(errors::from_errno)?)
        } else {
            None
        };
        let number = duplicate.as_ref().map_or(fd, AsRawFd::as_raw_fd);
        let source = Source::Transport(PipeTransport::as_transport(this));
        let token = source::register(home, number, interest, source)?;
        this.get().state.with(py, |state| {
            state.token = Some(token);
            state.duplicate = duplicate;
        });
        Ok(())
    }

    fn unregister(this: &Bound<'_, Self>) {
        let py = this.py();
        let (token, duplicate) =
            this.get().state.with(py, |state| (state.token.take(), state.duplicate.take()));
        let (Some(token), Some(home)) = (token, this.get().home(py)) else { return };
        let Ok(kernel) = home.get().kernel(py) else { return };
        drop(home.get().state.with(py, |state| state.sources.unregister(&kernel.poller, token)));
        drop(duplicate);
    }

    /// Runs a protocol method in the transport's context, or as it is when already inside.
    pub(super) fn in_context<R>(
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

    /// A failing protocol method is told to the loop and changes nothing else.
    pub(super) fn reported(
        this: &Bound<'_, Self>,
        outcome: PyResult<()>,
        message: &str,
    ) -> PyResult<()> {
        let py = this.py();
        match outcome {
            Ok(()) => Ok(()),
            Err(error) if is_exit(py, &error) => Err(error),
            Err(error) => PipeTransport::tell(this, error, message),
        }
    }

    fn tell(this: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        let py = this.py();
        let Some(home) = this.get().home(py) else { return Ok(()) };
        let protocol =
            this.get().state.with(py, |state| state.protocol.as_ref().map(|it| it.clone_ref(py)));
        let protocol = protocol.as_ref().map(|it| it.object(py));
        news::tell(this.as_any(), home.bind(py).as_any(), protocol, error, message)
    }

    /// Logs in debug mode, as asyncio does: `level` is the logger's method.
    pub(super) fn note(this: &Bound<'_, Self>, level: &str, text: &str) -> PyResult<()> {
        let py = this.py();
        let Some(home) = this.get().home(py) else { return Ok(()) };
        if !home.get().is_debug(py) {
            return Ok(());
        }
        imports(py).logger.bind(py).call_method1(level, (text, this)).map(drop)
    }

    /// `_fatal_error`: a terminal that hung up and a reader that left are no news, everything else
    /// is told to the loop; then the transport closes.
    pub(super) fn fatal(this: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        let py = this.py();
        let value = error.clone_ref(py).into_value(py).into_bound(py).into_any();
        let expected = match this.get().state.with(py, |state| state.end) {
            End::Read => {
                let hung_up = Errno::IO.raw_os_error();
                error.is_instance_of::<PyOSError>(py)
                    && value.getattr(intern!(py, "errno"))?.eq(hung_up)?
            }
            End::Write { .. } => error.is_instance_of::<PyOSError>(py),
        };
        if !expected {
            PipeTransport::tell(this, error, message)?;
        } else if this.get().home(py).is_some_and(|home| home.get().is_debug(py)) {
            news::log(this.as_any(), &value, message)?;
        }
        PipeTransport::force_close(this, Some(value.unbind()))
    }

    /// `_close`: drops what is unsent and queues `connection_lost(failure)`, once.
    pub(super) fn force_close(this: &Bound<'_, Self>, failure: Option<Py<PyAny>>) -> PyResult<()> {
        let py = this.py();
        let unsent = this.get().state.with(py, |state| {
            state.closing = true;
            if state.ended {
                return None;
            }
            state.failure = failure;
            Some(std::mem::take(&mut state.buffer))
        });
        if unsent.is_none() {
            return Ok(());
        }
        drop(unsent);
        PipeTransport::queue_end(this)
    }

    /// Stops watching the pipe and queues the end.
    pub(super) fn queue_end(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        PipeTransport::unregister(this);
        let Some(home) = this.get().home(py) else { return Ok(()) };
        if home.get().flags(py).closed {
            return Err(errors::closed_loop());
        }
        this.get().state.with(py, |state| state.ended = true);
        let ends = Box::new(PipeTransport::as_transport(this));
        home.get().push(py, Callback::End(ends));
        Ok(())
    }

    /// `connection_lost`, then the file is closed.
    pub fn end(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let failure = this.get().state.with(py, |state| state.failure.take());
        let told = this.get().in_context(py, |protocol| protocol.connection_lost(py, failure));
        let told = PipeTransport::reported(this, told, "Exception in protocol.connection_lost()");
        let pipe = this.get().state.with(py, |state| state.pipe.take());
        let closed = match &pipe {
            Some(pipe) => pipe.bind(py).call_method0(intern!(py, "close")).map(drop),
            None => Ok(()),
        };
        let closed = PipeTransport::reported(this, closed, "Exception while closing a pipe");
        let gone = this.get().state.with(py, |state| (state.protocol.take(), state.home.take()));
        drop(gone);
        told.and(closed)
    }

    /// The file was closed behind our back, and its number serves somebody else: this transport
    /// must never touch it again.
    pub fn lost_descriptor(this: &Bound<'_, Self>) -> PyResult<()> {
        let error = errors::from_errno(Errno::BADF);
        PipeTransport::force_close(this, Some(error.into_value(this.py()).into_any()))
    }

    /// `ResourceWarning`, and the file is closed: nobody else will.
    pub(super) fn dropped_open(this: &Bound<'_, Self>) {
        let py = this.py();
        news::warn_unclosed(this.as_any());
        let Some(pipe) = this.get().state.with(py, |state| state.pipe.take()) else { return };
        if let Err(error) = pipe.bind(py).call_method0(intern!(py, "close")) {
            error.write_unraisable(py, Some(this.as_any()));
        }
    }
}
