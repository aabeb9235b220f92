//! `StreamWriter`: the writing end of a stream, a thin face of its transport.
//!
//! The transport's methods are called by name, so one that was replaced on it is the one that runs.
//! What awaits (`drain`, `wait_closed`, `start_tls`) is in `python/aioxide/streams.py`.

use std::sync::atomic::AtomicUsize;

use pyo3::PyTraverseError;
use pyo3::exceptions::{PyAssertionError, PyResourceWarning};
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use super::reader::StreamReader;
use crate::cpython::calls;
use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::cpython::instances;
use crate::cpython::slots::Finalize;
use crate::errors;
use crate::event_loop::home::Home;
use crate::protocols::stream_reader::StreamReaderProtocol;
use crate::transports::stream::{StreamTransport, writing};

#[derive(Default)]
struct WriterState {
    transport: Option<Py<PyAny>>,
    protocol: Option<Py<PyAny>>,
    reader: Option<Py<PyAny>>,
    home: Option<Home>,
}

/// The writing end of a stream (`asyncio.StreamWriter`).
///
/// StreamWriter(transport, protocol, reader, loop): made by `open_connection` and `start_server`.
#[pyclass(frozen, subclass, weakref, dict, module = "aioxide", name = "StreamWriter")]
pub struct StreamWriter {
    state: GilCell<WriterState>,
}

impl StreamWriter {
    /// The writing end of a connection that a server accepted.
    pub fn of(
        py: Python<'_>,
        transport: Py<PyAny>,
        protocol: Py<PyAny>,
        reader: Option<Py<PyAny>>,
        home: Home,
    ) -> PyResult<Bound<'_, Self>> {
        let state = WriterState {
            transport: Some(transport),
            protocol: Some(protocol),
            reader,
            home: Some(home),
        };
        Bound::new(py, StreamWriter { state: GilCell::new(state) })
    }

    fn object<'py>(
        &self,
        py: Python<'py>,
        look: impl FnOnce(&WriterState) -> &Option<Py<PyAny>>,
    ) -> Option<Bound<'py, PyAny>> {
        let object = self.state.with(py, |state| look(state).as_ref().map(|it| it.clone_ref(py)));
        object.map(|object| object.into_bound(py))
    }

    #[inline]
    fn transport_of<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.object(py, |state| &state.transport).ok_or_else(uninitialized)
    }

    fn home(&self, py: Python<'_>) -> PyResult<Home> {
        self.state
            .with(py, |state| state.home.as_ref().map(|home| home.clone_ref(py)))
            .ok_or_else(uninitialized)
    }

    fn protocol_of<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.object(py, |state| &state.protocol).ok_or_else(uninitialized)
    }

    /// Raises what ended reading.
    #[inline]
    fn raise_failure(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let Some(reader) = this.get().object(py, |state| &state.reader) else { return Ok(()) };
        let failure = match reader.cast_exact::<StreamReader>() {
            Ok(reader) => reader.get().failure(py).map(|error| error.into_bound(py)),
            Err(_) => {
                let error = reader.call_method0(intern!(py, "exception"))?;
                (!error.is_none()).then_some(error)
            }
        };
        failure.map_or(Ok(()), |error| Err(PyErr::from_value(error)))
    }

    /// `transport.is_closing()`
    #[inline]
    fn is_transport_closing(this: &Bound<'_, Self>) -> PyResult<bool> {
        let py = this.py();
        let transport = this.get().transport_of(py)?;
        match transport.cast_exact::<StreamTransport>() {
            Ok(transport) => Ok(transport.get().is_closing(py)),
            Err(_) => calls::method0(&transport, intern!(py, "is_closing"))?.is_truthy(),
        }
    }

    fn ask<'py>(&self, name: &Bound<'py, PyString>) -> PyResult<Bound<'py, PyAny>> {
        calls::method0(&self.transport_of(name.py())?, name)
    }
}

fn uninitialized() -> PyErr {
    errors::uninitialized("StreamWriter")
}

#[pymethods]
impl StreamWriter {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        StreamWriter { state: GilCell::default() }
    }

    #[pyo3(signature = (transport, protocol, reader, r#loop))]
    fn __init__(
        this: &Bound<'_, Self>,
        transport: Py<PyAny>,
        protocol: Py<PyAny>,
        reader: Option<Bound<'_, PyAny>>,
        r#loop: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = this.py();
        if let Some(reader) = &reader
            && !reader.is_instance(imports(py).stream_reader.bind(py))?
        {
            let message = format!("reader must be a StreamReader, got {}", errors::repr(reader));
            return Err(PyAssertionError::new_err(message));
        }
        let state = WriterState {
            transport: Some(transport),
            protocol: Some(protocol),
            reader: reader.map(Bound::unbind),
            home: Some(Home::of(py, Some(r#loop))?),
        };
        drop(this.get().state.with(py, |old| std::mem::replace(old, state)));
        Ok(())
    }

    /// Sends bytes, now or when the peer takes them; never waits. `await drain()` does.
    #[pyo3(signature = (data, /))]
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = data.py();
        let transport = self.transport_of(py)?;
        if instances::is_plain::<StreamTransport>(&transport)
            && let Ok(own) = transport.cast_exact::<StreamTransport>()
        {
            return writing::write(own, data);
        }
        calls::method1(&transport, intern!(py, "write"), data).map(drop)
    }

    /// Sends an iterable of bytes objects.
    #[pyo3(signature = (data, /))]
    fn writelines(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = data.py();
        calls::method1(&self.transport_of(py)?, intern!(py, "writelines"), data).map(drop)
    }

    /// Closes the sending side once everything is sent; reading goes on.
    fn write_eof<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.ask(intern!(py, "write_eof"))
    }

    /// Whether `write_eof()` can be used; not over TLS.
    fn can_write_eof<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.ask(intern!(py, "can_write_eof"))
    }

    /// Sends what is buffered, then closes; `await wait_closed()` waits for that.
    fn close<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.ask(intern!(py, "close"))
    }

    /// True when the connection is closing or closed.
    fn is_closing<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.ask(intern!(py, "is_closing"))
    }

    /// Whether `drain` has nothing to wait for; False where that takes a look at Python objects, or
    /// a turn of the loop. Raises what ended the connection.
    fn _is_drained(this: &Bound<'_, Self>) -> PyResult<bool> {
        let py = this.py();
        let protocol = this.get().protocol_of(py)?;
        let Ok(protocol) = protocol.cast_exact::<StreamReaderProtocol>() else {
            return Ok(false);
        };
        StreamWriter::raise_failure(this)?;
        Ok(!StreamWriter::is_transport_closing(this)? && protocol.get().takes_more(py)?)
    }

    /// What is known of the connection, as of a transport.
    #[pyo3(signature = (name, default = None))]
    fn get_extra_info<'py>(
        &self,
        name: &Bound<'py, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = name.py();
        let default = default.into_pyobject(py)?;
        calls::method2(&self.transport_of(py)?, intern!(py, "get_extra_info"), name, &default)
    }

    /// The transport.
    #[getter]
    fn transport<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.object(py, |state| &state.transport)
    }

    /// What a Python subclass inherits as its finalizer (`slots::install_finalizer`).
    fn __del__(this: &Bound<'_, Self>) {
        if StreamWriter::wants_finalizer(this) {
            StreamWriter::finalize(this);
        }
    }

    fn __repr__(this: &Bound<'_, Self>) -> PyResult<String> {
        let py = this.py();
        let shown = |object: Option<Bound<'_, PyAny>>| {
            object.map_or_else(|| "None".to_owned(), |object| errors::repr(&object))
        };
        let mut text = format!(
            "<{} transport={}",
            this.get_type().name()?,
            shown(this.get().object(py, |state| &state.transport))
        );
        if let Some(reader) = this.get().object(py, |state| &state.reader) {
            text.push_str(&format!(" reader={}", errors::repr(&reader)));
        }
        text.push('>');
        Ok(text)
    }

    /// `asyncio.StreamWriter`, so that `isinstance` answers as for asyncio's own.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        imports(py).stream_writer.clone_ref(py)
    }

    #[getter]
    fn _transport<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.object(py, |state| &state.transport)
    }

    #[setter(_transport)]
    fn put_transport(&self, py: Python<'_>, value: Py<PyAny>) {
        drop(self.state.with(py, |state| state.transport.replace(value)));
    }

    #[getter]
    fn _protocol<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.object(py, |state| &state.protocol)
    }

    #[setter(_protocol)]
    fn put_protocol(&self, py: Python<'_>, value: Py<PyAny>) {
        drop(self.state.with(py, |state| state.protocol.replace(value)));
    }

    #[getter]
    fn _reader<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        self.object(py, |state| &state.reader)
    }

    #[setter(_reader)]
    fn put_reader(&self, py: Python<'_>, value: Option<Py<PyAny>>) {
        drop(self.state.with(py, |state| std::mem::replace(&mut state.reader, value)));
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.home(py).ok().map(|home| home.into_any(py))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state
            .peek(|state| {
                visit.call(&state.transport)?;
                visit.call(&state.protocol)?;
                visit.call(&state.reader)?;
                state.home.as_ref().map_or(Ok(()), |home| home.traverse(&visit))
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| drop(self.state.with(py, std::mem::take)));
    }
}

static ORIGINAL_DEALLOC: AtomicUsize = AtomicUsize::new(0);

impl Finalize for StreamWriter {
    fn wants_finalizer(this: &Bound<'_, Self>) -> bool {
        this.get().state.peek(|state| state.transport.is_some()).unwrap_or(false)
    }

    /// A connection that nobody closed is closed, and complained of.
    fn finalize(this: &Bound<'_, Self>) {
        let py = this.py();
        let complain = || -> PyResult<()> {
            if StreamWriter::is_transport_closing(this)? {
                return Ok(());
            }
            let category = py.get_type::<PyResourceWarning>();
            let warn = imports(py).warn.bind(py);
            let home = this.get().home(py)?;
            if home.any(py).call_method0(intern!(py, "is_closed"))?.is_truthy()? {
                return warn.call1(("loop is closed", category)).map(drop);
            }
            let message = format!("unclosed {}", errors::repr(this.as_any()));
            this.call_method0(intern!(py, "close"))?;
            warn.call1((message, category)).map(drop)
        };
        if let Err(error) = complain() {
            error.write_unraisable(py, Some(this.as_any()));
        }
    }

    fn original_dealloc() -> &'static AtomicUsize {
        &ORIGINAL_DEALLOC
    }
}
