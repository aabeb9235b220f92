//! `TlsProtocol`: TLS as the protocol of the transport below.
//!
//! This file is the class as Python sees it, for transports that are not ours and for timers; our
//! own stream transport calls the functions behind it. It never shows the program its bytes.

use std::sync::Arc;

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use super::TlsTransport;
use super::below::Below;
use super::records::Records;
use super::state::{Phase, Settings, TlsState, Told, Waiter};
use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::event_loop::BaseEventLoop;
use crate::protocols::Protocol;

/// TLS between a transport and a protocol (`asyncio.sslproto.SSLProtocol`).
#[pyclass(frozen, weakref, module = "aioxide", name = "TlsProtocol")]
pub struct TlsProtocol {
    pub(super) state: GilCell<TlsState>,
}

/// What a layer is made for.
pub struct Purpose<'a, 'py> {
    /// Which end of the connection it is.
    pub server_side: bool,
    /// The name that a client asks for and verifies.
    pub server_hostname: Option<&'a Bound<'py, PyAny>>,
    /// Whether the protocol is yet to be told of its connection.
    pub calls_connection_made: bool,
    /// Who waits for the handshake.
    pub waiter: Waiter,
}

impl TlsProtocol {
    /// A layer above nothing yet, and the transport that the program will see.
    pub fn create<'py>(
        event_loop: &Bound<'py, BaseEventLoop>,
        protocol: &Bound<'py, PyAny>,
        settings: Settings,
        purpose: Purpose<'_, 'py>,
    ) -> PyResult<Bound<'py, Self>> {
        let py = event_loop.py();
        let context = settings.context.bind(py);
        let records = Records::new(context, purpose.server_side, purpose.server_hostname)?;
        let state = TlsState {
            home: Some(event_loop.clone().unbind()),
            settings: Some(settings),
            records: Some(Arc::new(records)),
            protocol: Some(Protocol::new(protocol)?),
            told: if purpose.calls_connection_made { Told::Nothing } else { Told::Made },
            waiter: purpose.waiter,
            ..TlsState::empty()
        };
        let this = Bound::new(py, TlsProtocol { state: GilCell::new(state) })?;
        let transport = Py::new(py, TlsTransport::over(this.clone().unbind()))?;
        this.get().state.with(py, |state| state.transport = Some(transport));
        Ok(this)
    }

    pub(super) fn phase(&self, py: Python<'_>) -> Phase {
        self.state.with(py, |state| state.phase)
    }

    #[inline]
    pub(super) fn records(&self, py: Python<'_>) -> Option<Arc<Records>> {
        self.state.with(py, |state| state.records.clone())
    }

    /// The same, if something can be encrypted at once: after the handshake, with nothing waiting.
    #[inline]
    pub(super) fn ready_records(&self, py: Python<'_>) -> Option<Arc<Records>> {
        self.state.with(py, |state| {
            let ready = state.phase == Phase::Wrapped && state.backlog.is_empty();
            state.records.as_ref().filter(|_| ready).cloned()
        })
    }

    #[inline]
    pub(super) fn below(&self, py: Python<'_>) -> Option<Below> {
        self.state.with(py, |state| state.below.as_ref().map(|below| below.clone_ref(py)))
    }

    #[inline]
    pub(super) fn protocol(&self, py: Python<'_>) -> Option<Protocol> {
        self.state.with(py, |state| state.protocol.as_ref().map(|it| it.clone_ref(py)))
    }

    pub(super) fn transport(&self, py: Python<'_>) -> Option<Py<TlsTransport>> {
        self.state.with(py, |state| state.transport.as_ref().map(|it| it.clone_ref(py)))
    }

    pub(super) fn home<'py>(&self, py: Python<'py>) -> Option<Bound<'py, BaseEventLoop>> {
        let home = self.state.with(py, |state| state.home.as_ref().map(|home| home.clone_ref(py)));
        home.map(|home| home.into_bound(py))
    }

    pub(super) fn context(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.settings.as_ref().map(|it| it.context.clone_ref(py)))
    }

    pub(super) fn is_debug(&self, py: Python<'_>) -> bool {
        self.home(py).is_some_and(|home| home.get().is_debug(py))
    }
}

#[pymethods]
impl TlsProtocol {
    /// A layer of the loop's own making; `sslcontext` and both timeouts were checked.
    #[new]
    #[pyo3(signature = (r#loop, app_protocol, sslcontext, waiter, server_side, server_hostname,
                        call_connection_made, ssl_handshake_timeout, ssl_shutdown_timeout))]
    #[allow(clippy::too_many_arguments)]
    fn new(
        r#loop: &Bound<'_, BaseEventLoop>,
        app_protocol: &Bound<'_, PyAny>,
        sslcontext: Py<PyAny>,
        waiter: Option<Py<PyAny>>,
        server_side: bool,
        server_hostname: Option<&Bound<'_, PyAny>>,
        call_connection_made: bool,
        ssl_handshake_timeout: Py<PyAny>,
        ssl_shutdown_timeout: Py<PyAny>,
    ) -> PyResult<Py<Self>> {
        let settings = Settings {
            context: sslcontext,
            handshake_timeout: ssl_handshake_timeout,
            shutdown_timeout: ssl_shutdown_timeout,
        };
        let purpose = Purpose {
            server_side,
            server_hostname,
            calls_connection_made: call_connection_made,
            waiter: waiter.map_or(Waiter::Nobody, Waiter::Future),
        };
        TlsProtocol::create(r#loop, app_protocol, settings, purpose).map(Bound::unbind)
    }

    /// The handshake begins.
    #[pyo3(name = "connection_made")]
    fn py_connection_made(this: &Bound<'_, Self>, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        TlsProtocol::connection_made(this, transport)
    }

    /// The transport below is closed, for a reason or without one.
    #[pyo3(name = "connection_lost")]
    fn py_connection_lost(this: &Bound<'_, Self>, exc: Option<Py<PyAny>>) -> PyResult<()> {
        TlsProtocol::connection_lost(this, exc)
    }

    /// Records, or parts of them.
    #[pyo3(name = "data_received")]
    fn py_data_received(this: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        TlsProtocol::data_received(this, data)
    }

    /// The end of the stream below; true keeps it open until what was received is handed out.
    #[pyo3(name = "eof_received")]
    fn py_eof_received(this: &Bound<'_, Self>) -> PyResult<bool> {
        TlsProtocol::eof_received(this)
    }

    /// The transport below takes no more for now.
    #[pyo3(name = "pause_writing")]
    fn py_pause_writing(this: &Bound<'_, Self>) {
        TlsProtocol::pause_writing(this);
    }

    /// It takes more again.
    #[pyo3(name = "resume_writing")]
    fn py_resume_writing(this: &Bound<'_, Self>) -> PyResult<()> {
        TlsProtocol::resume_writing(this)
    }

    fn _check_handshake_timeout(this: &Bound<'_, Self>) -> PyResult<()> {
        TlsProtocol::check_handshake_timeout(this)
    }

    fn _check_shutdown_timeout(this: &Bound<'_, Self>) -> PyResult<()> {
        TlsProtocol::check_shutdown_timeout(this)
    }

    fn _read_on(this: &Bound<'_, Self>) -> PyResult<()> {
        TlsProtocol::read_on(this)
    }

    /// `asyncio.Protocol`, so that transports see what kind of protocol this is.
    #[getter(__class__)]
    fn class(&self, py: Python<'_>) -> Py<PyAny> {
        imports(py).protocol.clone_ref(py)
    }

    #[getter]
    fn _app_transport(&self, py: Python<'_>) -> Option<Py<TlsTransport>> {
        self.transport(py)
    }

    #[getter]
    fn _app_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.protocol(py).map(|protocol| protocol.object(py).clone().unbind())
    }

    #[getter]
    fn _transport(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.below(py).map(|below| below.object(py).clone().unbind())
    }

    #[getter]
    fn _sslcontext(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.context(py)
    }

    #[getter]
    fn _sslobj(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.records(py).map(|records| records.object(py).clone().unbind())
    }

    #[getter]
    fn _loop(&self, py: Python<'_>) -> Option<Py<BaseEventLoop>> {
        self.home(py).map(Bound::unbind)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("<TlsProtocol {}>", self.phase(py).name())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state.peek(|state| state.traverse(&visit)).unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            drop(self.state.with(py, |state| std::mem::replace(state, TlsState::empty())));
        });
    }
}
