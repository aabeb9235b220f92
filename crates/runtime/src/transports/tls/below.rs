//! The transport that carries the records: ours is called natively, any other by its methods.
//!
//! What the layer asks of it is all that is here.

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use crate::cpython::calls;
use crate::transports::stream::{StreamTransport, writing};

/// A transport that is connected.
pub enum Below {
    /// A stream socket of ours.
    Stream(Py<StreamTransport>),
    /// A subclass of it, another TLS transport, somebody else's transport.
    Foreign(Py<PyAny>),
}

impl Below {
    /// Looks at the transport once.
    pub fn new(transport: &Bound<'_, PyAny>) -> Self {
        match transport.cast_exact::<StreamTransport>() {
            Ok(stream) => Below::Stream(stream.clone().unbind()),
            Err(_) => Below::Foreign(transport.clone().unbind()),
        }
    }

    /// The transport object.
    pub fn object<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        match self {
            Below::Stream(stream) => stream.bind(py).as_any(),
            Below::Foreign(transport) => transport.bind(py),
        }
    }

    /// Another reference to the same transport.
    #[inline]
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Below::Stream(stream) => Below::Stream(stream.clone_ref(py)),
            Below::Foreign(transport) => Below::Foreign(transport.clone_ref(py)),
        }
    }

    /// Shows the transport to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Below::Stream(stream) => visit.call(stream),
            Below::Foreign(transport) => visit.call(transport),
        }
    }

    /// Sends records.
    #[inline]
    pub fn write(&self, records: &Bound<'_, PyBytes>) -> PyResult<()> {
        let py = records.py();
        match self {
            Below::Stream(stream) => writing::write(stream.bind(py), records.as_any()),
            Below::Foreign(transport) => {
                calls::method1(transport.bind(py), intern!(py, "write"), records.as_any()).map(drop)
            }
        }
    }

    /// Sends several pieces, in one system call where the kernel can.
    pub fn write_pieces(&self, py: Python<'_>, pieces: Vec<PyBackedBytes>) -> PyResult<()> {
        match self {
            Below::Stream(stream) => writing::write_pieces(stream.bind(py), pieces),
            Below::Foreign(_) => {
                let whole: Vec<u8> =
                    pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
                self.write(&PyBytes::new(py, &whole))
            }
        }
    }

    /// Stops reading while too much is not decrypted, and takes it up again.
    pub fn set_reading(&self, py: Python<'_>, reading: bool) -> PyResult<()> {
        let name =
            if reading { intern!(py, "resume_reading") } else { intern!(py, "pause_reading") };
        calls::method0(self.object(py), name).map(drop)
    }

    /// Closes once everything is sent.
    pub fn close(&self, py: Python<'_>) -> PyResult<()> {
        calls::method0(self.object(py), intern!(py, "close")).map(drop)
    }

    /// Closes at once, for a reason, which a transport with asyncio's public methods alone cannot
    /// be told.
    pub fn force_close(&self, py: Python<'_>, reason: Option<Py<PyAny>>) -> PyResult<()> {
        match self {
            Below::Stream(stream) => StreamTransport::force_close(stream.bind(py), reason),
            Below::Foreign(transport) => {
                match transport.bind(py).getattr_opt(intern!(py, "_force_close"))? {
                    Some(force_close) => force_close.call1((reason,)).map(drop),
                    None => calls::method0(transport.bind(py), intern!(py, "abort")).map(drop),
                }
            }
        }
    }

    /// Closing, or closed.
    pub fn is_closing(&self, py: Python<'_>) -> PyResult<bool> {
        match self {
            Below::Stream(stream) => Ok(stream.get().is_closing(py)),
            Below::Foreign(transport) => {
                calls::method0(transport.bind(py), intern!(py, "is_closing"))?.is_truthy()
            }
        }
    }
}
