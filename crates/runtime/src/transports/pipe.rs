//! `ReadPipeTransport`, `WritePipeTransport`: one end of a pipe each.
//!
//! This file is the classes as Python sees them; their life is in [`lifetime`], bytes come in
//! through [`reading`] and leave through [`writing`]. Behaviour and messages follow the pipe
//! transports of `asyncio.unix_events` in the newest CPython.

pub mod lifetime;
pub mod reading;
pub mod state;
pub mod writing;

use std::sync::atomic::AtomicUsize;

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::cpython::slots::Finalize;
use crate::cpython::{context, descriptor};
use crate::event_loop::BaseEventLoop;
use crate::protocols::python::PythonProtocol;
use state::{End, PipeState};

/// What both ends of a pipe have in common.
#[pyclass(subclass, weakref, dict, frozen, module = "aioxide._aioxide", name = "PipeTransport")]
pub struct PipeTransport {
    pub(crate) state: GilCell<PipeState>,
}

#[pymethods]
impl PipeTransport {
    #[pyo3(name = "is_closing")]
    /// True when the transport is closing or closed.
    fn py_is_closing(&self, py: Python<'_>) -> bool {
        self.is_closing(py)
    }

    /// The protocol; None once it was told that the pipe is gone.
    fn get_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let protocol =
            self.state.with(py, |state| state.protocol.as_ref().map(|it| it.clone_ref(py)));
        protocol.map(|protocol| protocol.object(py).clone().unbind())
    }

    /// Hands the pipe to another protocol.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = protocol.py();
        let protocol = PythonProtocol::new(protocol)?;
        drop(self.state.with(py, |state| state.protocol.replace(protocol)));
        Ok(())
    }

    /// What is known of the pipe: "pipe", the file object it was made from.
    #[pyo3(signature = (name, default = None))]
    fn get_extra_info(
        this: &Bound<'_, Self>,
        name: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Option<Py<PyAny>>> {
        state::extra_info(this, name, default)
    }

    /// Starts the pipe of a child process, once the protocol knows the process.
    fn _begin(this: &Bound<'_, Self>) -> PyResult<()> {
        PipeTransport::begin(this)
    }

    #[pyo3(signature = (exc, message = "Fatal error on pipe transport"))]
    fn _fatal_error(this: &Bound<'_, Self>, exc: &Bound<'_, PyAny>, message: &str) -> PyResult<()> {
        PipeTransport::fatal(this, PyErr::from_value(exc.clone()), message)
    }

    #[pyo3(signature = (exc = None))]
    fn _close(this: &Bound<'_, Self>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        PipeTransport::force_close(this, exc)
    }

    fn __repr__(this: &Bound<'_, Self>) -> PyResult<String> {
        state::describe(this)
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<BaseEventLoop>> {
        self.home(py)
    }

    #[getter]
    fn _pipe(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.pipe.as_ref().map(|pipe| pipe.clone_ref(py)))
    }

    /// None makes the transport forget its file, which somebody else closes.
    #[setter(_pipe)]
    fn forget_pipe(&self, py: Python<'_>, pipe: Option<Py<PyAny>>) {
        drop(self.state.with(py, |state| std::mem::replace(&mut state.pipe, pipe)));
    }

    #[getter]
    fn _fileno(&self, py: Python<'_>) -> i32 {
        self.state.with(py, |state| state.fd)
    }

    #[getter]
    fn _protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.get_protocol(py)
    }

    #[getter]
    fn _closing(&self, py: Python<'_>) -> bool {
        self.is_closing(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.peek(|state| state.traverse(&visit)).unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            drop(self.state.with(py, |state| {
                let end = state.end;
                std::mem::replace(state, PipeState::empty(end))
            }));
        });
    }
}

impl PipeTransport {
    fn unborn(end: End) -> Self {
        PipeTransport { state: GilCell::new(PipeState::empty(end)) }
    }
}

/// What both constructors are given.
struct Parts<'a, 'py> {
    event_loop: &'a Bound<'py, BaseEventLoop>,
    pipe: &'a Bound<'py, PyAny>,
    protocol: &'a Bound<'py, PyAny>,
    waiter: Option<Py<PyAny>>,
    extra: Option<Py<PyDict>>,
    of_child: bool,
}

impl Parts<'_, '_> {
    fn into_state(self, end: End) -> PyResult<PipeState> {
        let py = self.pipe.py();
        let extra = self.extra.unwrap_or_else(|| PyDict::new(py).unbind());
        extra.bind(py).set_item("pipe", self.pipe)?;
        Ok(PipeState {
            home: Some(self.event_loop.clone().unbind()),
            fd: descriptor::number(self.pipe)?,
            pipe: Some(self.pipe.clone().unbind()),
            of_child: self.of_child,
            protocol: Some(PythonProtocol::new(self.protocol)?),
            context: Some(context::copy_current(py)?),
            waiter: self.waiter,
            extra: Some(extra),
            ..PipeState::empty(end)
        })
    }
}

/// The end of a pipe that bytes come out of (`asyncio.ReadTransport`).
#[pyclass(extends = PipeTransport, subclass, frozen, module = "aioxide")]
pub struct ReadPipeTransport;

#[pymethods]
impl ReadPipeTransport {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<Self> {
        PyClassInitializer::from(PipeTransport::unborn(End::Read)).add_subclass(ReadPipeTransport)
    }

    /// Takes over a Python file that is non-blocking; `of_child` says that the transport of a
    /// process owns it and calls `_begin()`.
    #[pyo3(signature = (r#loop, pipe, protocol, waiter = None, extra = None, *, of_child = false))]
    fn __init__(
        this: &Bound<'_, Self>,
        r#loop: &Bound<'_, BaseEventLoop>,
        pipe: &Bound<'_, PyAny>,
        protocol: &Bound<'_, PyAny>,
        waiter: Option<Py<PyAny>>,
        extra: Option<Py<PyDict>>,
        of_child: bool,
    ) -> PyResult<()> {
        let parts = Parts { event_loop: r#loop, pipe, protocol, waiter, extra, of_child };
        PipeTransport::launch(this.as_super(), parts.into_state(End::Read)?);
        Ok(())
    }

    /// Stops calling `data_received` until `resume_reading()`.
    fn pause_reading(this: &Bound<'_, Self>) -> PyResult<()> {
        let this = this.as_super();
        let changed = this.get().state.with(this.py(), |state| {
            let changed = !state.closing && !state.paused;
            state.paused |= changed;
            changed
        });
        if !changed {
            return Ok(());
        }
        PipeTransport::rearm(this)?;
        PipeTransport::note(this, "debug", "%r pauses reading")
    }

    /// Takes up reading again.
    fn resume_reading(this: &Bound<'_, Self>) -> PyResult<()> {
        let this = this.as_super();
        let changed = this.get().state.with(this.py(), |state| {
            let changed = !state.closing && state.paused;
            state.paused &= !changed;
            changed
        });
        if !changed {
            return Ok(());
        }
        PipeTransport::rearm(this)?;
        PipeTransport::note(this, "debug", "%r resumes reading")
    }

    /// True when the transport receives data.
    fn is_reading(this: &Bound<'_, Self>) -> bool {
        this.as_super().get().state.with(this.py(), |state| !state.closing && !state.paused)
    }

    /// Closes the pipe; `connection_lost(None)` follows.
    fn close(this: &Bound<'_, Self>) -> PyResult<()> {
        let this = this.as_super();
        if this.get().is_closing(this.py()) {
            return Ok(());
        }
        PipeTransport::force_close(this, None)
    }

    /// What a Python subclass inherits as its finalizer (`slots::install_finalizer`).
    fn __del__(this: &Bound<'_, Self>) {
        if ReadPipeTransport::wants_finalizer(this) {
            ReadPipeTransport::finalize(this);
        }
    }

    #[getter]
    fn _paused(this: &Bound<'_, Self>) -> bool {
        this.as_super().get().state.with(this.py(), |state| state.paused)
    }

    /// `asyncio.ReadTransport`, so that `isinstance` answers as for asyncio's own.
    #[getter(__class__)]
    fn class(this: &Bound<'_, Self>) -> Py<PyAny> {
        imports(this.py()).read_transport.clone_ref(this.py())
    }
}

/// The end of a pipe that bytes go into (`asyncio.WriteTransport`).
#[pyclass(extends = PipeTransport, subclass, frozen, module = "aioxide")]
pub struct WritePipeTransport;

#[pymethods]
impl WritePipeTransport {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(
        _args: &Bound<'_, PyTuple>,
        _kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<Self> {
        let end = End::Write { watched: false };
        PyClassInitializer::from(PipeTransport::unborn(end)).add_subclass(WritePipeTransport)
    }

    /// Takes over a Python file that is non-blocking; `watched` says that the kernel tells when
    /// its reader is gone, `of_child` that the transport of a process owns it and calls `_begin()`.
    #[pyo3(signature = (r#loop, pipe, protocol, waiter = None, extra = None, *, watched = true,
                        of_child = false))]
    #[allow(clippy::too_many_arguments)]
    fn __init__(
        this: &Bound<'_, Self>,
        r#loop: &Bound<'_, BaseEventLoop>,
        pipe: &Bound<'_, PyAny>,
        protocol: &Bound<'_, PyAny>,
        waiter: Option<Py<PyAny>>,
        extra: Option<Py<PyDict>>,
        watched: bool,
        of_child: bool,
    ) -> PyResult<()> {
        let parts = Parts { event_loop: r#loop, pipe, protocol, waiter, extra, of_child };
        PipeTransport::launch(this.as_super(), parts.into_state(End::Write { watched })?);
        Ok(())
    }

    /// Writes bytes, now or when the pipe takes them; never blocks.
    fn write(this: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        writing::write(this.as_super(), data)
    }

    /// Writes an iterable of bytes objects, together where the kernel can.
    fn writelines(this: &Bound<'_, Self>, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        writing::writelines(this.as_super(), list_of_data)
    }

    /// True: closing the pipe is how a reader learns that it ends.
    fn can_write_eof(&self) -> bool {
        true
    }

    /// Writes what is buffered, then closes.
    fn write_eof(this: &Bound<'_, Self>) -> PyResult<()> {
        writing::finish(this.as_super())
    }

    /// Writes what is buffered, then closes; `connection_lost(None)` follows.
    fn close(this: &Bound<'_, Self>) -> PyResult<()> {
        writing::finish(this.as_super())
    }

    /// Closes at once; what is unsent is lost.
    fn abort(this: &Bound<'_, Self>) -> PyResult<()> {
        PipeTransport::force_close(this.as_super(), None)
    }

    /// Bytes accepted by `write()` and not yet taken by the kernel.
    fn get_write_buffer_size(this: &Bound<'_, Self>) -> usize {
        this.as_super().get().state.with(this.py(), |state| state.buffer.len())
    }

    /// `(low, high)`, in bytes.
    fn get_write_buffer_limits(this: &Bound<'_, Self>) -> (usize, usize) {
        this.as_super().get().state.with(this.py(), |state| state.flow.limits())
    }

    /// Sets when `pause_writing` and `resume_writing` are called, in bytes buffered.
    #[pyo3(signature = (high = None, low = None))]
    fn set_write_buffer_limits(
        this: &Bound<'_, Self>,
        high: Option<isize>,
        low: Option<isize>,
    ) -> PyResult<()> {
        let this = this.as_super();
        this.get().state.with(this.py(), |state| state.flow.set(high, low))?;
        writing::maybe_pause(this)
    }

    /// What a Python subclass inherits as its finalizer (`slots::install_finalizer`).
    fn __del__(this: &Bound<'_, Self>) {
        if WritePipeTransport::wants_finalizer(this) {
            WritePipeTransport::finalize(this);
        }
    }

    #[getter]
    fn _buffer(this: &Bound<'_, Self>) -> Py<PyAny> {
        let py = this.py();
        let unsent: Vec<u8> = this
            .as_super()
            .get()
            .state
            .with(py, |state| state.buffer.unsent().flatten().copied().collect());
        pyo3::types::PyByteArray::new(py, &unsent).into_any().unbind()
    }

    #[getter]
    fn _conn_lost(this: &Bound<'_, Self>) -> u32 {
        this.as_super().get().state.with(this.py(), |state| state.lost)
    }

    /// `asyncio.Transport`, which asyncio's own is too, so that `isinstance` answers the same.
    #[getter(__class__)]
    fn class(this: &Bound<'_, Self>) -> Py<PyAny> {
        imports(this.py()).transport.clone_ref(this.py())
    }
}

static READ_DEALLOC: AtomicUsize = AtomicUsize::new(0);
static WRITE_DEALLOC: AtomicUsize = AtomicUsize::new(0);

impl Finalize for ReadPipeTransport {
    fn wants_finalizer(this: &Bound<'_, Self>) -> bool {
        this.as_super().get().state.peek(|state| state.pipe.is_some()).unwrap_or(false)
    }

    fn finalize(this: &Bound<'_, Self>) {
        PipeTransport::dropped_open(this.as_super());
    }

    fn original_dealloc() -> &'static AtomicUsize {
        &READ_DEALLOC
    }
}

impl Finalize for WritePipeTransport {
    fn wants_finalizer(this: &Bound<'_, Self>) -> bool {
        this.as_super().get().state.peek(|state| state.pipe.is_some()).unwrap_or(false)
    }

    fn finalize(this: &Bound<'_, Self>) {
        PipeTransport::dropped_open(this.as_super());
    }

    fn original_dealloc() -> &'static AtomicUsize {
        &WRITE_DEALLOC
    }
}
