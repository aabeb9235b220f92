//! Who receives what a transport reads: a closed list.
//!
//! A transport of ours holds a [`Protocol`] and calls it by these methods, which are asyncio's.

pub mod child;
pub mod python;
pub mod stream_reader;

use pyo3::PyTraverseError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use crate::transports::tls::TlsProtocol;
use python::PythonProtocol;
use stream_reader::StreamReaderProtocol;

/// The protocol of a transport that carries a stream.
pub enum Protocol {
    /// A program's own.
    Python(PythonProtocol),
    /// TLS, which hands on what it decrypts.
    Tls(Py<TlsProtocol>),
    /// A stream of ours, which keeps it for whoever reads.
    Streams(Py<StreamReaderProtocol>),
}

impl Protocol {
    /// Looks at the object once.
    pub fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        if let Ok(tls) = object.cast_exact::<TlsProtocol>() {
            return Ok(Protocol::Tls(tls.clone().unbind()));
        }
        if let Ok(streams) = object.cast_exact::<StreamReaderProtocol>() {
            return Ok(Protocol::Streams(streams.clone().unbind()));
        }
        Ok(Protocol::Python(PythonProtocol::new(object)?))
    }

    /// The protocol object.
    pub fn object<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        match self {
            Protocol::Python(protocol) => protocol.object(py),
            Protocol::Tls(tls) => tls.bind(py).as_any(),
            Protocol::Streams(streams) => streams.bind(py).as_any(),
        }
    }

    /// Whether it lends its own buffers (`get_buffer`, `buffer_updated`).
    #[inline]
    pub fn is_buffered(&self) -> bool {
        match self {
            Protocol::Python(protocol) => protocol.is_buffered(),
            Protocol::Tls(_) | Protocol::Streams(_) => false,
        }
    }

    /// Another reference to the same protocol.
    #[inline]
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Protocol::Python(protocol) => Protocol::Python(protocol.clone_ref(py)),
            Protocol::Tls(tls) => Protocol::Tls(tls.clone_ref(py)),
            Protocol::Streams(streams) => Protocol::Streams(streams.clone_ref(py)),
        }
    }

    /// Shows the object to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Protocol::Python(protocol) => protocol.traverse(visit),
            Protocol::Tls(tls) => visit.call(tls),
            Protocol::Streams(streams) => visit.call(streams),
        }
    }

    /// `protocol.data_received(data)`
    #[inline]
    pub fn data_received(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        match self {
            Protocol::Python(protocol) => protocol.data_received(data),
            Protocol::Tls(tls) => TlsProtocol::data_received(tls.bind(data.py()), data),
            Protocol::Streams(streams) => {
                StreamReaderProtocol::received(streams.bind(data.py()), data)
            }
        }
    }

    /// `protocol.get_buffer(hint)`, for a buffered one.
    pub fn get_buffer<'py>(&self, py: Python<'py>, hint: isize) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Protocol::Python(protocol) => protocol.get_buffer(py, hint),
            Protocol::Tls(_) | Protocol::Streams(_) => Err(not_buffered()),
        }
    }

    /// `protocol.buffer_updated(count)`, for a buffered one.
    pub fn buffer_updated(&self, py: Python<'_>, count: usize) -> PyResult<()> {
        match self {
            Protocol::Python(protocol) => protocol.buffer_updated(py, count),
            Protocol::Tls(_) | Protocol::Streams(_) => Err(not_buffered()),
        }
    }

    /// `protocol.eof_received()`: true keeps the transport open.
    pub fn eof_received(&self, py: Python<'_>) -> PyResult<bool> {
        match self {
            Protocol::Python(protocol) => protocol.eof_received(py),
            Protocol::Tls(tls) => TlsProtocol::eof_received(tls.bind(py)),
            Protocol::Streams(streams) => StreamReaderProtocol::ended(streams.bind(py)),
        }
    }

    /// `protocol.connection_made(transport)`
    pub fn connection_made(&self, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        match self {
            Protocol::Python(protocol) => protocol.connection_made(transport),
            Protocol::Tls(tls) => TlsProtocol::connection_made(tls.bind(transport.py()), transport),
            Protocol::Streams(streams) => {
                StreamReaderProtocol::made(streams.bind(transport.py()), transport)
            }
        }
    }

    /// `protocol.connection_lost(exception)`
    pub fn connection_lost(&self, py: Python<'_>, exception: Option<Py<PyAny>>) -> PyResult<()> {
        match self {
            Protocol::Python(protocol) => protocol.connection_lost(py, exception),
            Protocol::Tls(tls) => TlsProtocol::connection_lost(tls.bind(py), exception),
            Protocol::Streams(streams) => StreamReaderProtocol::lost(streams.bind(py), exception),
        }
    }

    /// `protocol.pause_writing()`
    pub fn pause_writing(&self, py: Python<'_>) -> PyResult<()> {
        match self {
            Protocol::Python(protocol) => protocol.pause_writing(py),
            Protocol::Tls(tls) => {
                TlsProtocol::pause_writing(tls.bind(py));
                Ok(())
            }
            Protocol::Streams(streams) => StreamReaderProtocol::pause(streams.bind(py)),
        }
    }

    /// `protocol.resume_writing()`
    pub fn resume_writing(&self, py: Python<'_>) -> PyResult<()> {
        match self {
            Protocol::Python(protocol) => protocol.resume_writing(py),
            Protocol::Tls(tls) => TlsProtocol::resume_writing(tls.bind(py)),
            Protocol::Streams(streams) => StreamReaderProtocol::resume(streams.bind(py)),
        }
    }
}

/// A program put TLS or a stream in the place of a buffered protocol that was lending its buffer.
fn not_buffered() -> PyErr {
    PyRuntimeError::new_err("the protocol was replaced between get_buffer() and its answer")
}
