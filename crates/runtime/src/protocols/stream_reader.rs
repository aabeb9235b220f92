//! `StreamReaderProtocol`: hands what a transport reads to a `StreamReader`, and holds back who
//! writes too much.
//!
//! Transports of ours give a reader of ours its bytes without a call of Python in between. Any
//! other reader, and any other transport, is served through the same methods by name.

use pyo3::PyTraverseError;
use pyo3::exceptions::PyConnectionResetError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::cpython::calls;
use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::errors;
use crate::event_loop::home::Home;
use crate::event_loop::report;
use crate::futures::{Future, Phase, completion};
use crate::streams::reader::StreamReader;
use crate::streams::serving;
use crate::streams::writer::StreamWriter;
use crate::transports::stream::StreamTransport;

/// Who is handed the bytes.
enum Receiver {
    /// A reader of ours, and of no class derived from it.
    Native(Py<StreamReader>),
    /// Anything with its methods.
    Other(Py<PyAny>),
}

impl Receiver {
    fn new(reader: &Bound<'_, PyAny>) -> Self {
        match reader.cast_exact::<StreamReader>() {
            Ok(native) => Receiver::Native(native.clone().unbind()),
            Err(_) => Receiver::Other(reader.clone().unbind()),
        }
    }

    fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Receiver::Native(native) => Receiver::Native(native.clone_ref(py)),
            Receiver::Other(other) => Receiver::Other(other.clone_ref(py)),
        }
    }

    fn into_any(self, py: Python<'_>) -> Py<PyAny> {
        match self {
            Receiver::Native(native) => native.into_bound(py).into_any().unbind(),
            Receiver::Other(other) => other,
        }
    }

    fn feed_data(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = data.py();
        match self {
            Receiver::Native(native) => StreamReader::feed(native.bind(py), data),
            Receiver::Other(other) => {
                calls::method1(other.bind(py), intern!(py, "feed_data"), data).map(drop)
            }
        }
    }

    fn feed_eof(&self, py: Python<'_>) -> PyResult<()> {
        match self {
            Receiver::Native(native) => StreamReader::end(native.bind(py)),
            Receiver::Other(other) => {
                calls::method0(other.bind(py), intern!(py, "feed_eof")).map(drop)
            }
        }
    }

    fn set_exception(&self, error: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = error.py();
        match self {
            Receiver::Native(native) => StreamReader::fail(native.bind(py), error),
            Receiver::Other(other) => {
                calls::method1(other.bind(py), intern!(py, "set_exception"), error).map(drop)
            }
        }
    }

    fn set_transport(&self, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = transport.py();
        match self {
            Receiver::Native(native) => StreamReader::attach(native.bind(py), transport),
            Receiver::Other(other) => {
                calls::method1(other.bind(py), intern!(py, "set_transport"), transport).map(drop)
            }
        }
    }
}

#[derive(Default)]
struct ProtocolState {
    home: Option<Home>,
    receiver: Option<Receiver>,
    /// `client_connected_cb`
    handler: Option<Py<PyAny>>,
    transport: Option<Py<PyAny>>,
    task: Option<Py<PyAny>>,
    source_traceback: Option<Py<PyAny>>,
    /// Those in `drain()`.
    drainers: Vec<Py<Future>>,
    /// Those in `wait_closed()`.
    closers: Vec<Py<Future>>,
    /// What `_closed` gave out.
    closed: Option<Py<Future>>,
    /// Why the connection was lost.
    failure: Option<Py<PyAny>>,
    connection_lost: bool,
    /// The transport takes no more for now.
    paused: bool,
    over_tls: bool,
}

impl ProtocolState {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match &self.receiver {
            Some(Receiver::Native(native)) => visit.call(native)?,
            Some(Receiver::Other(other)) => visit.call(other)?,
            None => {}
        }
        for object in
            [&self.handler, &self.transport, &self.task, &self.source_traceback, &self.failure]
        {
            visit.call(object)?;
        }
        visit.call(&self.closed)?;
        for future in self.drainers.iter().chain(&self.closers) {
            visit.call(future)?;
        }
        self.home.as_ref().map_or(Ok(()), |home| home.traverse(visit))
    }
}

/// The protocol of a stream (`asyncio.StreamReaderProtocol`).
///
/// StreamReaderProtocol(stream_reader, client_connected_cb=None, loop=None).
#[pyclass(frozen, subclass, weakref, dict, module = "aioxide", name = "StreamReaderProtocol")]
pub struct StreamReaderProtocol {
    state: GilCell<ProtocolState>,
}

impl StreamReaderProtocol {
    /// The reader, if bytes can be given to it directly.
    #[inline]
    pub fn native_reader(&self, py: Python<'_>) -> Option<Py<StreamReader>> {
        self.state.with(py, |state| match &state.receiver {
            Some(Receiver::Native(native)) => Some(native.clone_ref(py)),
            _ => None,
        })
    }

    fn receiver(&self, py: Python<'_>) -> Option<Receiver> {
        self.state.with(py, |state| state.receiver.as_ref().map(|it| it.clone_ref(py)))
    }

    fn home(&self, py: Python<'_>) -> PyResult<Home> {
        self.state
            .with(py, |state| state.home.as_ref().map(|home| home.clone_ref(py)))
            .ok_or_else(|| errors::uninitialized("StreamReaderProtocol"))
    }

    /// `protocol.data_received(data)`; what nobody reads is dropped.
    pub fn received(this: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        this.get().receiver(this.py()).map_or(Ok(()), |receiver| receiver.feed_data(data))
    }

    /// `protocol.eof_received()`: the transport stays open, but TLS cannot.
    pub fn ended(this: &Bound<'_, Self>) -> PyResult<bool> {
        let py = this.py();
        if let Some(receiver) = this.get().receiver(py) {
            receiver.feed_eof(py)?;
        }
        Ok(!this.get().state.with(py, |state| state.over_tls))
    }

    /// `protocol.connection_made(transport)`
    pub fn made(this: &Bound<'_, Self>, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = this.py();
        let home = this.get().home(py)?;
        let over_tls = is_tls(transport)?;
        let (old, handler) = this.get().state.with(py, |state| {
            state.over_tls = over_tls;
            let handler = state.handler.as_ref().map(|handler| handler.clone_ref(py));
            (state.transport.replace(transport.clone().unbind()), handler)
        });
        drop(old);
        let receiver = this.get().receiver(py);
        if let Some(receiver) = &receiver {
            receiver.set_transport(transport)?;
        }
        let Some(handler) = handler else { return Ok(()) };
        let reader = receiver.map(|receiver| receiver.into_any(py));
        let writer = StreamWriter::of(
            py,
            transport.clone().unbind(),
            this.as_any().clone().unbind(),
            reader.as_ref().map(|reader| reader.clone_ref(py)),
            home.clone_ref(py),
        )?;
        let reader = reader.into_pyobject(py)?;
        let task = serving::handle(&home, handler.bind(py), &reader, writer.as_any(), transport)?;
        let old = this
            .get()
            .state
            .with(py, |state| std::mem::replace(&mut state.task, task.map(Bound::unbind)));
        drop(old);
        Ok(())
    }

    /// `protocol.connection_lost(exception)`
    pub fn lost(this: &Bound<'_, Self>, failure: Option<Py<PyAny>>) -> PyResult<()> {
        let py = this.py();
        let failure = failure.map(|failure| failure.into_bound(py)).filter(|it| !it.is_none());
        if let Some(receiver) = this.get().receiver(py) {
            match &failure {
                None => receiver.feed_eof(py)?,
                Some(error) => receiver.set_exception(error)?,
            }
        }
        let (old, waiters) = this.get().state.with(py, |state| {
            if !state.connection_lost {
                state.failure = failure.as_ref().map(|error| error.clone().unbind());
            }
            state.connection_lost = true;
            let mut waiters = std::mem::take(&mut state.closers);
            waiters.extend(state.closed.as_ref().map(|closed| closed.clone_ref(py)));
            if state.paused {
                waiters.append(&mut state.drainers);
            }
            ((state.receiver.take(), state.transport.take(), state.task.take()), waiters)
        });
        drop(old);
        waiters.iter().try_for_each(|waiter| settle(waiter.bind(py), failure.as_ref()))
    }

    /// `protocol.pause_writing()`
    pub fn pause(this: &Bound<'_, Self>) -> PyResult<()> {
        this.get().state.with(this.py(), |state| state.paused = true);
        StreamReaderProtocol::note(this, "%r pauses writing")
    }

    /// `protocol.resume_writing()`
    pub fn resume(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let waiters = this.get().state.with(py, |state| {
            state.paused = false;
            std::mem::take(&mut state.drainers)
        });
        StreamReaderProtocol::note(this, "%r resumes writing")?;
        waiters.iter().try_for_each(|waiter| settle(waiter.bind(py), None))
    }

    fn note(this: &Bound<'_, Self>, format: &str) -> PyResult<()> {
        let py = this.py();
        if this.get().home(py)?.is_debug(py)? { report::note(py, (format, this)) } else { Ok(()) }
    }

    /// Whether more can be written without waiting.
    ///
    /// # Errors
    /// `ConnectionResetError` when the connection is lost.
    pub fn takes_more(&self, py: Python<'_>) -> PyResult<bool> {
        let (lost, paused) = self.state.with(py, |state| (state.connection_lost, state.paused));
        if lost {
            return Err(PyConnectionResetError::new_err("Connection lost"));
        }
        Ok(!paused)
    }

    /// The Future of `_closed`, made when it is asked for first.
    fn closed_future(&self, py: Python<'_>) -> PyResult<Py<Future>> {
        let (known, lost, failure) = self.state.with(py, |state| {
            let known = state.closed.as_ref().map(|closed| closed.clone_ref(py));
            let failure = state.failure.as_ref().map(|failure| failure.clone_ref(py));
            (known, state.connection_lost, failure)
        });
        if let Some(known) = known {
            return Ok(known);
        }
        let closed = Py::new(py, Future::pending(py, self.home(py)?)?)?;
        if lost {
            settle(closed.bind(py), failure.as_ref().map(|failure| failure.bind(py)))?;
        }
        drop(self.state.with(py, |state| state.closed.replace(closed.clone_ref(py))));
        Ok(closed)
    }

    fn attribute(
        &self,
        py: Python<'_>,
        look: impl FnOnce(&ProtocolState) -> &Option<Py<PyAny>>,
    ) -> Option<Py<PyAny>> {
        self.state.with(py, |state| look(state).as_ref().map(|it| it.clone_ref(py)))
    }
}

/// Wakes one who waits; an exception that nobody looks at is no news, since reading raises it too.
fn settle(waiter: &Bound<'_, Future>, failure: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    let py = waiter.py();
    if waiter.get().phase(py) != Phase::Pending {
        return Ok(());
    }
    match failure {
        None => completion::set_result(waiter, py.None()),
        Some(error) => {
            completion::set_exception(waiter, error)?;
            waiter.get().state.with(py, |state| state.log_traceback = false);
            Ok(())
        }
    }
}

fn is_tls(transport: &Bound<'_, PyAny>) -> PyResult<bool> {
    if transport.is_exact_instance_of::<StreamTransport>() {
        return Ok(false);
    }
    let py = transport.py();
    let context = transport.call_method1(intern!(py, "get_extra_info"), ("sslcontext",))?;
    Ok(!context.is_none())
}

#[pymethods]
impl StreamReaderProtocol {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        StreamReaderProtocol { state: GilCell::default() }
    }

    #[pyo3(signature = (stream_reader, client_connected_cb = None, r#loop = None))]
    fn __init__(
        this: &Bound<'_, Self>,
        stream_reader: Option<&Bound<'_, PyAny>>,
        client_connected_cb: Option<Py<PyAny>>,
        r#loop: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = this.py();
        let home = Home::of(py, r#loop)?;
        let source = match stream_reader {
            Some(reader) => Some(reader.getattr(intern!(py, "_source_traceback"))?),
            None => None,
        };
        let state = ProtocolState {
            home: Some(home),
            receiver: stream_reader.map(Receiver::new),
            handler: client_connected_cb,
            source_traceback: source.filter(|source| !source.is_none()).map(Bound::unbind),
            ..ProtocolState::default()
        };
        drop(this.get().state.with(py, |old| std::mem::replace(old, state)));
        Ok(())
    }

    fn connection_made(this: &Bound<'_, Self>, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        StreamReaderProtocol::made(this, transport)
    }

    #[pyo3(signature = (exc))]
    fn connection_lost(this: &Bound<'_, Self>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        StreamReaderProtocol::lost(this, exc)
    }

    fn data_received(this: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        StreamReaderProtocol::received(this, data)
    }

    fn eof_received(this: &Bound<'_, Self>) -> PyResult<bool> {
        StreamReaderProtocol::ended(this)
    }

    fn pause_writing(this: &Bound<'_, Self>) -> PyResult<()> {
        StreamReaderProtocol::pause(this)
    }

    fn resume_writing(this: &Bound<'_, Self>) -> PyResult<()> {
        StreamReaderProtocol::resume(this)
    }

    /// `_drain_helper` up to its `await`: None when more can be written, otherwise the Future to
    /// wait for. ConnectionResetError once the connection is lost.
    fn _line_up_to_drain(&self, py: Python<'_>) -> PyResult<Option<Py<Future>>> {
        if self.takes_more(py)? {
            return Ok(None);
        }
        let waiter = Py::new(py, Future::pending(py, self.home(py)?)?)?;
        self.state.with(py, |state| state.drainers.push(waiter.clone_ref(py)));
        Ok(Some(waiter))
    }

    /// `StreamWriter.wait_closed` up to its `await`: None when the connection is closed. Each who
    /// waits has a Future of its own: cancelling one changes nothing for the others.
    fn _line_up_to_close(&self, py: Python<'_>) -> PyResult<Option<Py<Future>>> {
        let (lost, failure) = self.state.with(py, |state| {
            (state.connection_lost, state.failure.as_ref().map(|it| it.clone_ref(py)))
        });
        match failure {
            Some(error) => Err(PyErr::from_value(error.into_bound(py))),
            None if lost => Ok(None),
            None => {
                let waiter = Py::new(py, Future::pending(py, self.home(py)?)?)?;
                self.state.with(py, |state| state.closers.push(waiter.clone_ref(py)));
                Ok(Some(waiter))
            }
        }
    }

    /// Either of them after its `await`, however that ended.
    fn _leave(&self, waiter: &Bound<'_, Future>) {
        let old = self.state.with(waiter.py(), |state| {
            let take = |waiters: &mut Vec<Py<Future>>| {
                let place = waiters.iter().position(|own| own.is(waiter))?;
                Some(waiters.remove(place))
            };
            take(&mut state.drainers).or_else(|| take(&mut state.closers))
        });
        drop(old);
    }

    fn _get_close_waiter(&self, py: Python<'_>, stream: &Bound<'_, PyAny>) -> PyResult<Py<Future>> {
        let _ = stream;
        self.closed_future(py)
    }

    fn _replace_transport(this: &Bound<'_, Self>, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = this.py();
        let over_tls = is_tls(transport)?;
        let old = this.get().state.with(py, |state| {
            state.over_tls = over_tls;
            state.transport.replace(transport.clone().unbind())
        });
        drop(old);
        match this.get().native_reader(py) {
            Some(reader) => StreamReader::replace_transport(reader.bind(py), transport),
            None => Ok(()),
        }
    }

    /// `asyncio.StreamReaderProtocol`, so that `isinstance` answers as for asyncio's own.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        imports(py).stream_reader_protocol.clone_ref(py)
    }

    #[getter]
    fn _stream_reader(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.receiver(py).map(|receiver| receiver.into_any(py))
    }

    #[getter]
    fn _client_connected_cb(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.attribute(py, |state| &state.handler)
    }

    #[setter(_client_connected_cb)]
    fn put_client_connected_cb(&self, py: Python<'_>, value: Option<Py<PyAny>>) {
        drop(self.state.with(py, |state| std::mem::replace(&mut state.handler, value)));
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
    fn _over_ssl(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.over_tls)
    }

    #[setter(_over_ssl)]
    fn put_over_ssl(&self, py: Python<'_>, value: bool) {
        self.state.with(py, |state| state.over_tls = value);
    }

    #[getter]
    fn _task(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.attribute(py, |state| &state.task)
    }

    #[getter]
    fn _source_traceback(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.attribute(py, |state| &state.source_traceback)
    }

    #[getter]
    fn _closed(&self, py: Python<'_>) -> PyResult<Py<Future>> {
        self.closed_future(py)
    }

    #[getter]
    fn _paused(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.paused)
    }

    #[getter]
    fn _connection_lost(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.connection_lost)
    }

    #[getter]
    fn _drain_waiters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let waiters: Vec<Py<Future>> = self
            .state
            .with(py, |state| state.drainers.iter().map(|waiter| waiter.clone_ref(py)).collect());
        PyList::new(py, waiters)
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        Ok(self.home(py)?.into_any(py))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.peek(|state| state.traverse(&visit)).unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| drop(self.state.with(py, std::mem::take)));
    }
}
