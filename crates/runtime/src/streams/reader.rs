//! `StreamReader`: bytes that arrived and nobody has asked for, and who waits for more.
//!
//! Its transport feeds it, and is paused while it holds more than twice its limit; that also bounds
//! how much can be read without a turn of the loop. The waits themselves are in [`super::reading`].

use std::mem::MaybeUninit;

use pyo3::PyTraverseError;
use pyo3::exceptions::{PyAssertionError, PyNotImplementedError, PyOverflowError, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PySlice, PyTuple};

use super::reading::{self, Progress, Wish};
use super::separators::Separators;
use super::unread::{DEFAULT_LIMIT, LARGE, MOST_AT_ONCE, ReaderState};
use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::cpython::{buffers, calls};
use crate::errors;
use crate::event_loop::home::Home;
use crate::futures::{Future, Phase, completion};

/// The least that is read from a socket at once, however full the reader is.
const LEAST_ROOM: usize = 4096;

/// The reading end of a stream (`asyncio.StreamReader`).
///
/// StreamReader(limit=65536, loop=None): `limit`, in bytes, is the longest line, and half of what
/// is kept before the peer is slowed down.
#[pyclass(frozen, subclass, weakref, dict, module = "aioxide", name = "StreamReader")]
pub struct StreamReader {
    pub(super) state: GilCell<ReaderState>,
}

impl StreamReader {
    /// How many bytes the transport may read at once.
    #[inline]
    pub fn room(&self, py: Python<'_>) -> usize {
        self.state.with(py, |state| {
            let length = state.len();
            let room = state.limit.saturating_mul(2).saturating_sub(length);
            let room = room.max(state.wanted.saturating_sub(length));
            // What one who waits will take is received by itself, and is then given as it came.
            room.min(state.at_most.max(LARGE / 2)).max(LEAST_ROOM)
        })
    }

    /// Whether everything that came was read.
    #[inline]
    pub fn is_drained(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.len() == 0)
    }

    /// Takes over bytes that were received; [`StreamReader::on_fed`] must follow.
    ///
    /// # Errors
    /// `AssertionError` after the end of the stream.
    #[inline]
    pub fn keep(&self, py: Python<'_>, bytes: &[u8]) -> PyResult<()> {
        self.state.with(py, |state| {
            if state.eof {
                return Err(after_eof());
            }
            state.add(py, bytes, None)
        })
    }

    /// Lets `receive` put bytes into what a large read will return, if there is one;
    /// [`StreamReader::on_fed`] must follow.
    pub fn receive<E>(
        &self,
        py: Python<'_>,
        receive: impl FnOnce(&mut [MaybeUninit<u8>]) -> Result<usize, E>,
    ) -> Option<PyResult<Result<usize, E>>> {
        self.state.with(py, |state| {
            let wanted = state.wanted;
            let growing = state.growing.as_mut().filter(|it| it.len() < wanted)?;
            Some(growing.fill(py, |room| {
                let length = room.len().min(MOST_AT_ONCE);
                receive(&mut room[..length])
            }))
        })
    }

    /// Bytes were added: wakes whoever waits for them, pauses the transport if they are too many.
    #[inline]
    pub fn on_fed(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let waiter = this
            .get()
            .state
            .with(py, |state| if state.len() >= state.wanted { state.waiter.take() } else { None });
        wake(py, waiter, None)?;
        StreamReader::pause_if_full(this)
    }

    /// Asks the transport to read no more, if there is more than twice the limit.
    pub(super) fn pause_if_full(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let transport = this.get().state.with(py, |state| {
            let pause = !state.paused && state.is_too_full();
            state.transport.as_ref().filter(|_| pause).map(|transport| transport.clone_ref(py))
        });
        let Some(transport) = transport else { return Ok(()) };
        match calls::method0(transport.bind(py), intern!(py, "pause_reading")) {
            Ok(_) => this.get().state.with(py, |state| state.paused = true),
            // All that comes must be kept; asking again would lead to the same answer.
            Err(error) if error.is_instance_of::<PyNotImplementedError>(py) => {
                drop(this.get().state.with(py, |state| state.transport.take()));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// `feed_data`, of any bytes-like object; `bytes` are kept as they are.
    pub fn feed(this: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = this.py();
        if this.get().state.with(py, |state| state.eof) {
            return Err(after_eof());
        }
        let piece = match data.cast_exact::<PyBytes>() {
            Ok(bytes) => bytes.clone(),
            Err(_) => buffers::read(data, |bytes| PyBytes::new(py, bytes))?,
        };
        if piece.as_bytes().is_empty() {
            return Ok(());
        }
        this.get().take_back(py);
        let bytes = piece.clone();
        this.get().state.with(py, |state| state.add(py, bytes.as_bytes(), Some(piece)))?;
        this.get().show_again(py)?;
        StreamReader::on_fed(this)
    }

    /// Whether somebody was given the buffer, who may look into it, or change it, at any time.
    #[inline]
    pub fn is_shown(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.shown.is_some())
    }

    /// What is unread is what the buffer that was shown holds by now. Goes before whatever reads or
    /// adds; [`StreamReader::show_again`] comes after it.
    #[inline]
    fn take_back(&self, py: Python<'_>) {
        let shown = self.state.with(py, |state| Some(state.shown.as_ref()?.clone_ref(py)));
        if let Some(shown) = shown {
            let unread = PyBytes::new(py, &shown.bind(py).to_vec());
            self.state.with(py, |state| state.replace(unread));
        }
    }

    #[inline]
    fn show_again(&self, py: Python<'_>) -> PyResult<()> {
        let shown = self.state.with(py, |state| {
            let shown = state.shown.as_ref()?.clone_ref(py);
            Some((shown, PyBytes::new(py, state.buffer.as_slice())))
        });
        match shown {
            Some((shown, unread)) => shown.bind(py).set_item(PySlice::full(py), unread),
            None => Ok(()),
        }
    }

    /// `feed_eof`: nothing more will come.
    pub fn end(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let waiter = this.get().state.with(py, |state| {
            state.eof = true;
            state.waiter.take()
        });
        wake(py, waiter, None)
    }

    /// `set_exception`: this and every later read raises it.
    pub fn fail(this: &Bound<'_, Self>, error: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = this.py();
        let (waiter, old) = this.get().state.with(py, |state| {
            (state.waiter.take(), state.exception.replace(error.clone().unbind()))
        });
        drop(old);
        wake(py, waiter, Some(error))
    }

    /// `set_transport`: who is to be paused.
    ///
    /// # Errors
    /// `AssertionError` when there is one.
    pub fn attach(this: &Bound<'_, Self>, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = this.py();
        this.get().state.with(py, |state| {
            if state.transport.is_some() {
                return Err(PyAssertionError::new_err("Transport already set"));
            }
            state.transport = Some(transport.clone().unbind());
            Ok(())
        })
    }

    /// TLS was put over the transport, and everything that waits must wait above it.
    pub fn replace_transport(this: &Bound<'_, Self>, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = this.py();
        let old = this.get().state.with(py, |state| {
            state.paused = false;
            state.transport.replace(transport.clone().unbind())
        });
        drop(old);
        StreamReader::pause_if_full(this)
    }

    /// The exception that was set, if any.
    #[inline]
    pub fn failure(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.exception.as_ref().map(|error| error.clone_ref(py)))
    }

    /// `_maybe_resume_transport`, after something was taken.
    #[inline]
    pub(super) fn resume_if_drained(this: &Bound<'_, Self>) -> PyResult<()> {
        let resume =
            this.get().state.with(this.py(), |state| state.paused && state.len() <= state.limit);
        if resume { StreamReader::resume(this) } else { Ok(()) }
    }

    /// Lets the transport read again.
    pub(super) fn resume(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let transport = this.get().state.with(py, |state| {
            state.paused = false;
            state.transport.as_ref().map(|transport| transport.clone_ref(py))
        });
        match transport {
            Some(transport) => {
                calls::method0(transport.bind(py), intern!(py, "resume_reading")).map(drop)
            }
            None => Ok(()),
        }
    }

    fn read_on<'py>(
        this: &Bound<'py, Self>,
        wish: &Wish,
        waiter: Option<&Bound<'py, Future>>,
    ) -> PyResult<Progress<'py>> {
        this.get().take_back(this.py());
        let progress = match waiter {
            None => reading::begin(this, wish),
            Some(waiter) => reading::go_on(this, wish, waiter),
        };
        this.get().show_again(this.py())?;
        progress
    }

    fn attribute(
        &self,
        py: Python<'_>,
        look: impl FnOnce(&ReaderState) -> &Option<Py<PyAny>>,
    ) -> Option<Py<PyAny>> {
        self.state.with(py, |state| look(state).as_ref().map(|it| it.clone_ref(py)))
    }
}

fn after_eof() -> PyErr {
    PyAssertionError::new_err("feed_data after feed_eof")
}

/// Wakes who waits, with an exception or without, unless cancelled meanwhile.
fn wake(
    py: Python<'_>,
    waiter: Option<Py<PyAny>>,
    failure: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let Some(waiter) = waiter else { return Ok(()) };
    let waiter = waiter.bind(py);
    if let Ok(future) = waiter.cast::<Future>() {
        return match failure {
            _ if future.get().phase(py) == Phase::Cancelled => Ok(()),
            None => completion::set_result(future, py.None()),
            Some(error) => completion::set_exception(future, error),
        };
    }
    if waiter.call_method0(intern!(py, "cancelled"))?.is_truthy()? {
        return Ok(());
    }
    match failure {
        None => waiter.call_method1(intern!(py, "set_result"), (py.None(),)).map(drop),
        Some(error) => waiter.call_method1(intern!(py, "set_exception"), (error,)).map(drop),
    }
}

/// A limit in bytes, however large.
///
/// # Errors
/// `ValueError` unless it is positive.
fn checked_limit(limit: &Bound<'_, PyAny>) -> PyResult<usize> {
    let py = limit.py();
    if limit.le(0)? {
        return Err(PyValueError::new_err("Limit cannot be <= 0"));
    }
    match limit.extract::<usize>() {
        Err(error) if error.is_instance_of::<PyOverflowError>(py) => Ok(usize::MAX),
        other => other,
    }
}

#[pymethods]
impl StreamReader {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        StreamReader { state: GilCell::new(ReaderState::empty()) }
    }

    #[pyo3(signature = (limit = None, r#loop = None))]
    fn __init__(
        this: &Bound<'_, Self>,
        limit: Option<&Bound<'_, PyAny>>,
        r#loop: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = this.py();
        let limit = limit.map_or(Ok(DEFAULT_LIMIT), checked_limit)?;
        let home = Home::of(py, r#loop)?;
        let source = if home.is_debug(py)? { Some(errors::extract_stack(py)?) } else { None };
        let old = this.get().state.with(py, |state| {
            let fresh = ReaderState {
                home: Some(home),
                limit,
                source_traceback: source,
                ..ReaderState::empty()
            };
            std::mem::replace(state, fresh)
        });
        drop(old);
        Ok(())
    }

    /// `read` up to its next `await`: bytes, or the Future to wait for, which is `waiter` when it
    /// goes on. So do the next three.
    #[pyo3(signature = (n, waiter = None, /))]
    fn _read<'py>(
        this: &Bound<'py, Self>,
        n: isize,
        waiter: Option<&Bound<'py, Future>>,
    ) -> PyResult<Progress<'py>> {
        let wish = usize::try_from(n).map_or(Wish::All, Wish::Some);
        StreamReader::read_on(this, &wish, waiter)
    }

    #[pyo3(signature = (waiter = None, /))]
    fn _readline<'py>(
        this: &Bound<'py, Self>,
        waiter: Option<&Bound<'py, Future>>,
    ) -> PyResult<Progress<'py>> {
        StreamReader::read_on(this, &Wish::Line, waiter)
    }

    #[pyo3(signature = (separator, waiter = None, /))]
    fn _readuntil<'py>(
        this: &Bound<'py, Self>,
        separator: &Bound<'py, PyAny>,
        waiter: Option<&Bound<'py, Future>>,
    ) -> PyResult<Progress<'py>> {
        StreamReader::read_on(this, &Wish::Until(Separators::of(separator)?), waiter)
    }

    #[pyo3(signature = (n, waiter = None, /))]
    fn _readexactly<'py>(
        this: &Bound<'py, Self>,
        n: isize,
        waiter: Option<&Bound<'py, Future>>,
    ) -> PyResult<Progress<'py>> {
        let count = usize::try_from(n)
            .map_err(|_| PyValueError::new_err("readexactly size can not be less than zero"))?;
        StreamReader::read_on(this, &Wish::Exactly(count), waiter)
    }

    /// `_wait_for_data` up to its `await`.
    fn _line_up<'py>(
        this: &Bound<'py, Self>,
        func_name: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, Future>> {
        reading::wait(this, &func_name.str()?.to_string_lossy(), (0, usize::MAX), 0)
    }

    /// `_wait_for_data` after its `await`.
    fn _leave(this: &Bound<'_, Self>, waiter: &Bound<'_, Future>) {
        reading::leave(this, waiter);
    }

    /// Any read after its `await` raised.
    fn _give_up(this: &Bound<'_, Self>, waiter: &Bound<'_, Future>) -> PyResult<()> {
        reading::leave(this, waiter);
        StreamReader::pause_if_full(this)
    }

    fn __aiter__(this: Py<Self>) -> Py<Self> {
        this
    }

    /// True once everything was read and nothing more will come.
    fn at_eof(&self, py: Python<'_>) -> bool {
        self.take_back(py);
        self.state.with(py, |state| state.eof && state.len() == 0)
    }

    /// Adds bytes to what can be read; for protocols.
    fn feed_data(this: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        StreamReader::feed(this, data)
    }

    /// Nothing more will come; for protocols.
    fn feed_eof(this: &Bound<'_, Self>) -> PyResult<()> {
        StreamReader::end(this)
    }

    /// This and every later read raises `exc`; for protocols.
    fn set_exception(this: &Bound<'_, Self>, exc: &Bound<'_, PyAny>) -> PyResult<()> {
        StreamReader::fail(this, exc)
    }

    /// The exception that was set, or None.
    fn exception(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.failure(py)
    }

    /// The transport to pause when too much is unread; for protocols.
    fn set_transport(this: &Bound<'_, Self>, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        StreamReader::attach(this, transport)
    }

    fn _wakeup_waiter(&self, py: Python<'_>) -> PyResult<()> {
        wake(py, self.state.with(py, |state| state.waiter.take()), None)
    }

    fn _maybe_resume_transport(this: &Bound<'_, Self>) -> PyResult<()> {
        StreamReader::resume_if_drained(this)
    }

    fn __repr__(this: &Bound<'_, Self>) -> String {
        let py = this.py();
        let shown = |name: &str, object: Option<Py<PyAny>>| {
            object.map(|object| format!("{name}={}", errors::repr(object.bind(py))))
        };
        let (length, eof, limit, paused) =
            this.get().state.with(py, |state| (state.len(), state.eof, state.limit, state.paused));
        let parts = [
            (length > 0).then(|| format!("{length} bytes")),
            eof.then(|| "eof".to_owned()),
            (limit != DEFAULT_LIMIT).then(|| format!("limit={limit}")),
            shown("waiter", this.get().attribute(py, |state| &state.waiter)),
            shown("exception", this.get().attribute(py, |state| &state.exception)),
            shown("transport", this.get().attribute(py, |state| &state.transport)),
            paused.then(|| "paused".to_owned()),
        ];
        let known: Vec<String> =
            std::iter::once("StreamReader".to_owned()).chain(parts.into_iter().flatten()).collect();
        format!("<{}>", known.join(" "))
    }

    /// `asyncio.StreamReader`, so that `isinstance` answers as for asyncio's own.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        imports(py).stream_reader.clone_ref(py)
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.home.as_ref().map(|it| it.clone_ref(py).into_any(py)))
    }

    /// What is unread: made when somebody looks, kept in step from then on, changes included.
    #[getter]
    fn _buffer<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyByteArray>> {
        self.state.with(py, |state| {
            if let Some(shown) = &state.shown {
                return Ok(shown.bind(py).clone());
            }
            state.settle(py)?;
            let shown = PyByteArray::new(py, state.buffer.as_slice());
            state.shown = Some(shown.clone().unbind());
            Ok(shown)
        })
    }

    #[setter(_buffer)]
    fn put_buffer(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let shown = match value.cast::<PyByteArray>() {
            Ok(shown) => shown.clone(),
            Err(_) => buffers::read(value, |bytes| PyByteArray::new(py, bytes))?,
        };
        let old = self.state.with(py, |state| state.shown.replace(shown.unbind()));
        drop(old);
        self.take_back(py);
        Ok(())
    }

    #[getter]
    fn _limit(&self, py: Python<'_>) -> usize {
        self.state.with(py, |state| state.limit)
    }

    #[setter(_limit)]
    fn put_limit(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        let limit = checked_limit(value)?;
        self.state.with(py, |state| state.limit = limit);
        Ok(())
    }

    #[getter]
    fn _eof(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.eof)
    }

    #[setter(_eof)]
    fn put_eof(&self, py: Python<'_>, value: bool) {
        self.state.with(py, |state| state.eof = value);
    }

    #[getter]
    fn _paused(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.paused)
    }

    #[setter(_paused)]
    fn put_paused(&self, py: Python<'_>, value: bool) {
        self.state.with(py, |state| state.paused = value);
    }

    #[getter]
    fn _waiter(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.attribute(py, |state| &state.waiter)
    }

    #[setter(_waiter)]
    fn put_waiter(&self, py: Python<'_>, value: Option<Py<PyAny>>) {
        let old = self.state.with(py, |state| {
            (state.wanted, state.at_most) = (0, usize::MAX);
            std::mem::replace(&mut state.waiter, value)
        });
        drop(old);
    }

    #[getter]
    fn _exception(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.failure(py)
    }

    #[setter(_exception)]
    fn put_exception(&self, py: Python<'_>, value: Option<Py<PyAny>>) {
        drop(self.state.with(py, |state| std::mem::replace(&mut state.exception, value)));
    }

    #[getter]
    fn _transport(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.attribute(py, |state| &state.transport)
    }

    #[setter(_transport)]
    fn put_transport(&self, py: Python<'_>, value: Option<Py<PyAny>>) {
        drop(self.state.with(py, |state| std::mem::replace(&mut state.transport, value)));
    }

    #[getter]
    fn _source_traceback(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.attribute(py, |state| &state.source_traceback)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.peek(|state| state.traverse(&visit)).unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            drop(self.state.with(py, |state| std::mem::replace(state, ReaderState::empty())));
        });
    }
}
