//! `TlsTransport`: what the program's protocol sees of a TLS connection.
//!
//! A face only: every method asks the [`TlsProtocol`] beneath, which holds all there is to know
//! but whether the program has closed.

use std::sync::atomic::AtomicUsize;

use pyo3::PyTraverseError;
use pyo3::exceptions::PyNotImplementedError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

use super::TlsProtocol;
use super::state::Marks;
use super::writing;
use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::cpython::slots::Finalize;
use crate::errors;
use crate::event_loop::BaseEventLoop;
use crate::protocols::Protocol;
use crate::transports::news;

/// The way to the layer beneath.
enum Link {
    /// Held.
    Held(Py<TlsProtocol>),
    /// The program closed twice, so it is done with the connection: a protocol that keeps its
    /// transport must not keep the keys and buffers of TLS. The transport below holds the layer
    /// until the connection is over.
    Watched(Py<PyWeakrefReference>),
    /// Taken by the collector.
    Gone,
}

struct TransportState {
    link: Link,
    closed: bool,
}

/// A TLS connection and its protocol (`asyncio.sslproto._SSLProtocolTransport`).
#[pyclass(subclass, weakref, dict, frozen, module = "aioxide", name = "TlsTransport")]
pub struct TlsTransport {
    state: GilCell<TransportState>,
}

impl TlsTransport {
    /// Of a layer that is being made.
    pub(super) fn over(layer: Py<TlsProtocol>) -> Self {
        TlsTransport {
            state: GilCell::new(TransportState { link: Link::Held(layer), closed: false }),
        }
    }

    /// The layer; None once it is gone, when the connection is over and the program has closed.
    #[inline]
    fn layer<'py>(&self, py: Python<'py>) -> Option<Bound<'py, TlsProtocol>> {
        let link = self.state.with(py, |state| match &state.link {
            Link::Held(layer) => Ok(layer.clone_ref(py)),
            Link::Watched(watched) => Err(Some(watched.clone_ref(py))),
            Link::Gone => Err(None),
        });
        match link {
            Ok(layer) => Some(layer.into_bound(py)),
            Err(watched) => watched?.bind(py).upgrade_as_exact::<TlsProtocol>().ok()?,
        }
    }

    /// Holds the layer no longer than the transport below does.
    fn let_go(&self, py: Python<'_>) -> PyResult<()> {
        let Some(layer) = self.layer(py) else { return Ok(()) };
        let watched = Link::Watched(PyWeakrefReference::new(layer.as_any())?.unbind());
        drop(self.state.with(py, |state| std::mem::replace(&mut state.link, watched)));
        Ok(())
    }

    /// No warning is due any more when it dies; says whether it was closed already.
    pub(super) fn mark_closed(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| std::mem::replace(&mut state.closed, true))
    }

    pub(super) fn is_closed(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.closed)
    }
}

#[pymethods]
impl TlsTransport {
    /// Encrypts bytes and sends them, now or when the socket takes them; never blocks.
    fn write(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        match self.layer(data.py()) {
            Some(layer) if writing::check(data)? => writing::write(&layer, data),
            _ => Ok(()),
        }
    }

    /// Sends an iterable of bytes objects, together where that is cheaper.
    fn writelines(&self, list_of_data: &Bound<'_, PyAny>) -> PyResult<()> {
        match self.layer(list_of_data.py()) {
            Some(layer) => writing::writelines(&layer, list_of_data),
            None => Ok(()),
        }
    }

    /// Raises NotImplementedError: TLS cannot be closed in one direction.
    fn write_eof(&self) -> PyResult<()> {
        Err(PyNotImplementedError::new_err(()))
    }

    /// False: TLS cannot be closed in one direction.
    fn can_write_eof(&self) -> bool {
        false
    }

    /// Sends what is buffered, says goodbye, then closes; `connection_lost(None)` follows.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.mark_closed(py) {
            return self.let_go(py);
        }
        self.layer(py).map_or(Ok(()), |layer| TlsProtocol::start_shutdown(&layer))
    }

    /// Closes at once; what is unsent is lost.
    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        self._force_close(py, None)
    }

    fn _force_close(&self, py: Python<'_>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        self.mark_closed(py);
        self.layer(py).map_or(Ok(()), |layer| TlsProtocol::abort(&layer, exc))
    }

    /// True when this transport, or the one below, is closing or closed.
    fn is_closing(&self, py: Python<'_>) -> PyResult<bool> {
        if self.is_closed(py) {
            return Ok(true);
        }
        let below = self.layer(py).and_then(|layer| layer.get().below(py));
        below.map_or(Ok(false), |below| below.is_closing(py))
    }

    /// Stops calling `data_received` until `resume_reading()`.
    fn pause_reading(&self, py: Python<'_>) {
        if let Some(layer) = self.layer(py) {
            layer.get().state.with(py, |state| state.reading_paused = true);
        }
    }

    /// Takes up reading again.
    fn resume_reading(&self, py: Python<'_>) -> PyResult<()> {
        self.layer(py).map_or(Ok(()), |layer| TlsProtocol::resume_reading(&layer))
    }

    /// True when the protocol is handed data.
    fn is_reading(&self, py: Python<'_>) -> bool {
        self.layer(py)
            .is_some_and(|layer| layer.get().state.with(py, |state| !state.reading_paused))
    }

    /// Bytes accepted by `write()`, plain or encrypted, and not yet given to the transport below.
    fn get_write_buffer_size(&self, py: Python<'_>) -> PyResult<usize> {
        self.layer(py).map_or(Ok(0), |layer| layer.get().write_buffer_size(py))
    }

    /// `(low, high)`, in bytes.
    fn get_write_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        let marks = self.layer(py).map(|layer| layer.get().state.with(py, |state| state.writing));
        marks.unwrap_or(Marks::WRITING).as_pair()
    }

    /// Sets when `pause_writing` and `resume_writing` are called, in bytes buffered.
    #[pyo3(signature = (high = None, low = None))]
    fn set_write_buffer_limits(
        &self,
        py: Python<'_>,
        high: Option<isize>,
        low: Option<isize>,
    ) -> PyResult<()> {
        let marks = Marks::WRITING.completed(high, low)?;
        let Some(layer) = self.layer(py) else { return Ok(()) };
        layer.get().state.with(py, |state| state.writing = marks);
        TlsProtocol::control_writing(&layer)
    }

    /// Encrypted bytes received and not yet decrypted.
    fn get_read_buffer_size(&self, py: Python<'_>) -> PyResult<usize> {
        let records = self.layer(py).and_then(|layer| layer.get().records(py));
        records.map_or(Ok(0), |records| records.incoming.pending(py))
    }

    /// `(low, high)`, in bytes.
    fn get_read_buffer_limits(&self, py: Python<'_>) -> (usize, usize) {
        let marks = self.layer(py).map(|layer| layer.get().state.with(py, |state| state.reading));
        marks.unwrap_or(Marks::READING).as_pair()
    }

    /// Sets when the transport below stops reading and goes on, in bytes received.
    #[pyo3(signature = (high = None, low = None))]
    fn set_read_buffer_limits(
        &self,
        py: Python<'_>,
        high: Option<isize>,
        low: Option<isize>,
    ) -> PyResult<()> {
        let marks = Marks::READING.completed(high, low)?;
        let Some(layer) = self.layer(py) else { return Ok(()) };
        layer.get().state.with(py, |state| state.reading = marks);
        TlsProtocol::control_receiving(&layer)
    }

    /// The protocol; None once the connection is lost.
    fn get_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let protocol = self.layer(py).and_then(|layer| layer.get().protocol(py));
        protocol.map(|protocol| protocol.object(py).clone().unbind())
    }

    /// Hands the connection to another protocol.
    fn set_protocol(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = protocol.py();
        let protocol = Protocol::new(protocol)?;
        if let Some(layer) = self.layer(py) {
            drop(layer.get().state.with(py, |state| state.protocol.replace(protocol)));
        }
        Ok(())
    }

    /// What is known of the connection: "ssl_object", "sslcontext", "peercert", "cipher",
    /// "compression", and what the transport below knows.
    #[pyo3(signature = (name, default = None))]
    fn get_extra_info(
        &self,
        name: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Option<Py<PyAny>>> {
        match self.layer(name.py()) {
            Some(layer) => TlsProtocol::extra_info(&layer, name, default),
            None => Ok(default),
        }
    }

    /// What a Python subclass inherits as its finalizer (`slots::install_finalizer`).
    fn __del__(this: &Bound<'_, Self>) {
        if TlsTransport::wants_finalizer(this) {
            TlsTransport::finalize(this);
        }
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let closing = if self.is_closed(py) { " closing" } else { "" };
        let Some(layer) = self.layer(py) else { return format!("<TlsTransport{closing}>") };
        let below = match layer.get().below(py) {
            Some(below) => errors::repr(below.object(py)),
            None => "nothing".to_owned(),
        };
        format!("<TlsTransport{closing} {} over {below}>", layer.get().phase(py).name())
    }

    /// asyncio's own TLS transport, so that `isinstance` and the class's name answer as for it.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        imports(py).tls_transport.clone_ref(py)
    }

    /// `loop.start_tls()` may put more TLS between this transport and its protocol.
    #[classattr]
    fn _start_tls_compatible() -> bool {
        true
    }

    #[getter]
    fn _sendfile_compatible(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        imports(py).sendfile_mode.getattr(py, intern!(py, "FALLBACK"))
    }

    #[getter]
    fn _ssl_protocol(&self, py: Python<'_>) -> Option<Py<TlsProtocol>> {
        self.layer(py).map(Bound::unbind)
    }

    #[getter]
    fn _sslcontext(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.layer(py)?.get().context(py)
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<BaseEventLoop>> {
        self.layer(py)?.get().home(py).map(Bound::unbind)
    }

    #[getter]
    fn _closed(&self, py: Python<'_>) -> bool {
        self.is_closed(py)
    }

    #[getter]
    fn _protocol_paused(&self, py: Python<'_>) -> bool {
        self.layer(py).is_some_and(|layer| layer.get().state.with(py, |state| state.writing_paused))
    }

    /// As if `data` had been written while OpenSSL took nothing; asyncio's tests call it.
    #[pyo3(name = "_test__append_write_backlog")]
    fn append_write_backlog(&self, data: &Bound<'_, PyAny>) -> PyResult<()> {
        match self.layer(data.py()) {
            Some(layer) => writing::put_off(&layer, data),
            None => Ok(()),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let link = self.state.peek(|state| match &state.link {
            Link::Held(layer) => visit.call(layer),
            Link::Watched(watched) => visit.call(watched),
            Link::Gone => Ok(()),
        });
        link.unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            drop(self.state.with(py, |state| {
                state.closed = true;
                std::mem::replace(&mut state.link, Link::Gone)
            }));
        });
    }
}

impl TlsProtocol {
    /// `transport.get_extra_info`
    fn extra_info(
        this: &Bound<'_, Self>,
        name: &Bound<'_, PyAny>,
        default: Option<Py<PyAny>>,
    ) -> PyResult<Option<Py<PyAny>>> {
        let py = this.py();
        let (over, certificate) = this.get().state.with(py, |state| {
            (
                state.handshake_is_over,
                state.peer_certificate.as_ref().map(|certificate| certificate.clone_ref(py)),
            )
        });
        if let (Ok(text), Some(records)) = (name.extract::<&str>(), this.get().records(py)) {
            let object = records.object(py);
            match text {
                "sslcontext" => return Ok(this.get().context(py)),
                "ssl_object" if over => return Ok(Some(object.clone().unbind())),
                "peercert" if over => return Ok(certificate),
                "cipher" | "compression" if over => {
                    return object.call_method0(text).map(|it| Some(it.unbind()));
                }
                _ => {}
            }
        }
        match this.get().below(py) {
            Some(below) => {
                let told = below
                    .object(py)
                    .call_method1(intern!(py, "get_extra_info"), (name, default))?;
                Ok(Some(told.unbind()))
            }
            None => Ok(default),
        }
    }
}

static ORIGINAL_DEALLOC: AtomicUsize = AtomicUsize::new(0);

impl Finalize for TlsTransport {
    fn wants_finalizer(this: &Bound<'_, Self>) -> bool {
        this.get().state.peek(|state| !state.closed).unwrap_or(false)
    }

    fn finalize(this: &Bound<'_, Self>) {
        let py = this.py();
        this.get().mark_closed(py);
        // A layer that was never connected has nothing to close.
        if this.get().layer(py).is_none_or(|layer| layer.get().below(py).is_none()) {
            return;
        }
        news::warn_unclosed(this.as_any());
    }

    fn original_dealloc() -> &'static AtomicUsize {
        &ORIGINAL_DEALLOC
    }
}
