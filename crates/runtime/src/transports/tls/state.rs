//! What a TLS layer holds: where its handshake and its end stand, its neighbours above and below,
//! and what waits in between.

use std::sync::Arc;

use engine::write_buffer::WriteBuffer;
use pyo3::PyTraverseError;
use pyo3::exceptions::PyValueError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;

use super::TlsTransport;
use super::below::Below;
use super::framing::Framing;
use super::records::Records;
use crate::event_loop::BaseEventLoop;
use crate::protocols::Protocol;

/// Where the connection stands (`asyncio.sslproto.SSLProtocolState`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Not yet begun, or over.
    Unwrapped,
    /// Getting to know each other.
    Handshake,
    /// Plain bytes flow.
    Wrapped,
    /// Closing: what is there is still handed out.
    Flushing,
    /// Closing: goodbye is said.
    Shutdown,
}

impl Phase {
    /// asyncio's name of it.
    pub const fn name(self) -> &'static str {
        match self {
            Phase::Unwrapped => "UNWRAPPED",
            Phase::Handshake => "DO_HANDSHAKE",
            Phase::Wrapped => "WRAPPED",
            Phase::Flushing => "FLUSHING",
            Phase::Shutdown => "SHUTDOWN",
        }
    }

    /// Nothing more is to be written.
    pub const fn is_ending(self) -> bool {
        matches!(self, Phase::Unwrapped | Phase::Flushing | Phase::Shutdown)
    }
}

/// What the program's protocol was told (`asyncio.sslproto.AppProtocolState`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nothing.
    Nothing,
    /// `connection_made`
    Made,
    /// `eof_received`
    Eof,
    /// `connection_lost`
    Lost,
}

/// Who waits for the handshake.
pub enum Waiter {
    /// Nobody, or nobody any more.
    Nobody,
    /// A coroutine, on this future.
    Future(Py<PyAny>),
    /// A server: its loop is told of a failure in debug mode.
    Server,
}

/// What is the same for every connection of a server.
pub struct Settings {
    /// The `ssl.SSLContext`.
    pub context: Py<PyAny>,
    /// Seconds.
    pub handshake_timeout: Py<PyAny>,
    /// Seconds.
    pub shutdown_timeout: Py<PyAny>,
}

impl Settings {
    /// Another reference to the same settings.
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        Settings {
            context: self.context.clone_ref(py),
            handshake_timeout: self.handshake_timeout.clone_ref(py),
            shutdown_timeout: self.shutdown_timeout.clone_ref(py),
        }
    }

    /// Shows the objects to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.context)?;
        visit.call(&self.handshake_timeout)?;
        visit.call(&self.shutdown_timeout)
    }
}

/// The amounts between which somebody pauses; unlike those of a socket, reaching the high one is
/// enough (`asyncio.sslproto.SSLProtocol._control_app_writing`).
#[derive(Clone, Copy)]
pub struct Marks {
    /// From here on he pauses.
    pub high: usize,
    /// Down to here he does.
    pub low: usize,
}

impl Marks {
    /// For `write()` (`asyncio.constants.FLOW_CONTROL_HIGH_WATER_SSL_WRITE`).
    pub const WRITING: Marks = Marks { high: 512 * 1024, low: 128 * 1024 };
    /// For reading from below (`asyncio.constants.FLOW_CONTROL_HIGH_WATER_SSL_READ`).
    pub const READING: Marks = Marks { high: 256 * 1024, low: 64 * 1024 };

    /// `(low, high)`, as Python is told.
    pub const fn as_pair(self) -> (usize, usize) {
        (self.low, self.high)
    }

    /// What is missing follows from the other, or from these defaults
    /// (`asyncio.sslproto.add_flowcontrol_defaults`).
    ///
    /// # Errors
    /// `ValueError` unless high >= low >= 0.
    pub fn completed(self, high: Option<isize>, low: Option<isize>) -> PyResult<Marks> {
        let highest =
            high.unwrap_or_else(|| low.map_or(self.high as isize, |low| low.saturating_mul(4)));
        let lowest = low.unwrap_or_else(|| highest.div_euclid(4));
        match (usize::try_from(highest), usize::try_from(lowest)) {
            (Ok(high), Ok(low)) if high >= low => Ok(Marks { high, low }),
            _ => Err(PyValueError::new_err(format!(
                "high ({highest}) must be >= low ({lowest}) must be >= 0"
            ))),
        }
    }
}

/// The mutable part of a `TlsProtocol`.
pub struct TlsState {
    pub(super) home: Option<Py<BaseEventLoop>>,
    pub(super) settings: Option<Settings>,
    pub(super) below: Option<Below>,
    pub(super) records: Option<Arc<Records>>,
    pub(super) framing: Framing,
    pub(super) phase: Phase,
    pub(super) protocol: Option<Protocol>,
    pub(super) told: Told,
    pub(super) transport: Option<Py<TlsTransport>>,
    pub(super) waiter: Waiter,
    pub(super) peer_certificate: Option<Py<PyAny>>,
    pub(super) handshake_is_over: bool,
    /// When the handshake began, by the loop's clock; in debug mode only.
    pub(super) began: Option<f64>,
    pub(super) handshake_timer: Option<Py<PyAny>>,
    pub(super) shutdown_timer: Option<Py<PyAny>>,
    /// What was written and could not be encrypted yet.
    pub(super) backlog: WriteBuffer<PyBackedBytes>,
    /// What was taken out of OpenSSL and is not sent, record by record, and its length.
    pub(super) sealed: Vec<PyBackedBytes>,
    pub(super) sealed_length: usize,
    pub(super) writing: Marks,
    pub(super) reading: Marks,
    /// OpenSSL may hold decrypted bytes.
    pub(super) holds: bool,
    /// The protocol is being told of something: what it writes is sent when it returns.
    pub(super) corked: bool,
    pub(super) eof_received: bool,
    /// The transport below takes no more for now.
    pub(super) sending_paused: bool,
    /// The transport below was asked to read no more.
    pub(super) receiving_paused: bool,
    /// The protocol was asked to write no more.
    pub(super) writing_paused: bool,
    /// The program wants no more.
    pub(super) reading_paused: bool,
    /// Counts writes into a connection that ended.
    pub(super) lost: u32,
}

impl TlsState {
    /// Of no connection.
    pub fn empty() -> Self {
        TlsState {
            home: None,
            settings: None,
            below: None,
            records: None,
            framing: Framing::default(),
            phase: Phase::Unwrapped,
            protocol: None,
            told: Told::Nothing,
            transport: None,
            waiter: Waiter::Nobody,
            peer_certificate: None,
            handshake_is_over: false,
            began: None,
            handshake_timer: None,
            shutdown_timer: None,
            backlog: WriteBuffer::new(),
            sealed: Vec::new(),
            sealed_length: 0,
            writing: Marks::WRITING,
            reading: Marks::READING,
            holds: false,
            corked: false,
            eof_received: false,
            sending_paused: false,
            receiving_paused: false,
            writing_paused: false,
            reading_paused: false,
            lost: 0,
        }
    }

    /// Shows every Python object to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.home)?;
        visit.call(&self.transport)?;
        visit.call(&self.peer_certificate)?;
        visit.call(&self.handshake_timer)?;
        visit.call(&self.shutdown_timer)?;
        if let Waiter::Future(waiter) = &self.waiter {
            visit.call(waiter)?;
        }
        if let Some(settings) = &self.settings {
            settings.traverse(visit)?;
        }
        if let Some(below) = &self.below {
            below.traverse(visit)?;
        }
        if let Some(records) = &self.records {
            records.traverse(visit)?;
        }
        self.protocol.as_ref().map_or(Ok(()), |protocol| protocol.traverse(visit))
    }
}
