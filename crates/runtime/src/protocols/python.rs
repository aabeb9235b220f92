//! Any `asyncio.Protocol` or `asyncio.BufferedProtocol` object, as its transport sees it.
//!
//! Methods are looked up by name at every call, so a method replaced on the instance later is the
//! one that runs; a vectorcall by name makes no bound method for it.

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;

use crate::cpython::calls;
use crate::cpython::imports::imports;

/// A Python protocol, and which of the two kinds it is.
pub struct PythonProtocol {
    object: Py<PyAny>,
    is_buffered: bool,
}

impl PythonProtocol {
    /// Looks at the object once: `isinstance(protocol, asyncio.BufferedProtocol)`.
    pub fn new(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = object.py();
        let is_buffered = object.is_instance(imports(py).buffered_protocol.bind(py))?;
        Ok(PythonProtocol { object: object.clone().unbind(), is_buffered })
    }

    /// The protocol object.
    pub fn object<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.object.bind(py)
    }

    /// Whether it lends its own buffers (`get_buffer`, `buffer_updated`).
    pub fn is_buffered(&self) -> bool {
        self.is_buffered
    }

    /// Another reference to the same protocol.
    #[inline]
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        PythonProtocol { object: self.object.clone_ref(py), is_buffered: self.is_buffered }
    }

    /// Shows the object to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.object)
    }

    /// `protocol.data_received(data)`
    #[inline]
    pub fn data_received(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = data.py();
        calls::method1(self.object.bind(py), intern!(py, "data_received"), data).map(drop)
    }

    /// `protocol.datagram_received(data, address)`
    #[inline]
    pub fn datagram_received(
        &self,
        data: &Bound<'_, PyAny>,
        address: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = data.py();
        let name = intern!(py, "datagram_received");
        calls::method2(self.object.bind(py), name, data, address).map(drop)
    }

    /// `protocol.error_received(exception)`
    pub fn error_received(&self, exception: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = exception.py();
        calls::method1(self.object.bind(py), intern!(py, "error_received"), exception).map(drop)
    }

    /// `protocol.get_buffer(hint)`
    pub fn get_buffer<'py>(&self, py: Python<'py>, hint: isize) -> PyResult<Bound<'py, PyAny>> {
        let hint = hint.into_pyobject(py)?.into_any();
        calls::method1(self.object.bind(py), intern!(py, "get_buffer"), &hint)
    }

    /// `protocol.buffer_updated(count)`
    pub fn buffer_updated(&self, py: Python<'_>, count: usize) -> PyResult<()> {
        let count = count.into_pyobject(py)?.into_any();
        calls::method1(self.object.bind(py), intern!(py, "buffer_updated"), &count).map(drop)
    }

    /// `protocol.eof_received()`: true keeps the transport open.
    pub fn eof_received(&self, py: Python<'_>) -> PyResult<bool> {
        calls::method0(self.object.bind(py), intern!(py, "eof_received"))?.is_truthy()
    }

    /// `protocol.connection_made(transport)`
    pub fn connection_made(&self, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = transport.py();
        calls::method1(self.object.bind(py), intern!(py, "connection_made"), transport).map(drop)
    }

    /// `protocol.connection_lost(exception)`
    pub fn connection_lost(&self, py: Python<'_>, exception: Option<Py<PyAny>>) -> PyResult<()> {
        let exception = exception.into_pyobject(py)?;
        calls::method1(self.object.bind(py), intern!(py, "connection_lost"), &exception).map(drop)
    }

    /// `protocol.pause_writing()`
    pub fn pause_writing(&self, py: Python<'_>) -> PyResult<()> {
        calls::method0(self.object.bind(py), intern!(py, "pause_writing")).map(drop)
    }

    /// `protocol.resume_writing()`
    pub fn resume_writing(&self, py: Python<'_>) -> PyResult<()> {
        calls::method0(self.object.bind(py), intern!(py, "resume_writing")).map(drop)
    }
}
