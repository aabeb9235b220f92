//! Transports: one open descriptor each, and what waits to be sent on it.
//!
//! [`Transport`] is what the loop knows of them: it is told when one is ready, begins or ends, and
//! never what it carries.

pub mod address;
pub mod datagram;
pub mod listener;
pub mod news;
pub mod outgoing;
pub mod pipe;
pub mod stream;
pub mod tls;

use engine::poller::Readiness;
use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use crate::event_loop::BaseEventLoop;
use datagram::DatagramTransport;
use pipe::PipeTransport;
use stream::StreamTransport;

/// Every transport that has a protocol: a closed list.
pub enum Transport {
    /// A connection.
    Stream(Py<StreamTransport>),
    /// A datagram endpoint.
    Datagram(Py<DatagramTransport>),
    /// One end of a pipe.
    Pipe(Py<PipeTransport>),
}

impl Transport {
    /// Another reference to the same transport.
    #[inline]
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Transport::Stream(transport) => Transport::Stream(transport.clone_ref(py)),
            Transport::Datagram(transport) => Transport::Datagram(transport.clone_ref(py)),
            Transport::Pipe(transport) => Transport::Pipe(transport.clone_ref(py)),
        }
    }

    /// The object that the program sees.
    pub fn object<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        match self {
            Transport::Stream(transport) => transport.bind(py).as_any(),
            Transport::Datagram(transport) => transport.bind(py).as_any(),
            Transport::Pipe(transport) => transport.bind(py).as_any(),
        }
    }

    /// Closing, or closed.
    pub fn is_closing(&self, py: Python<'_>) -> bool {
        match self {
            Transport::Stream(transport) => transport.get().is_closing(py),
            Transport::Datagram(transport) => transport.get().is_closing(py),
            Transport::Pipe(transport) => transport.get().is_closing(py),
        }
    }

    /// Closing and not yet closed; so is a connection whose TLS says goodbye.
    pub fn is_leaving(&self, py: Python<'_>) -> bool {
        match self {
            Transport::Stream(transport) => transport.get().is_leaving(py),
            Transport::Datagram(_) | Transport::Pipe(_) => self.is_closing(py),
        }
    }

    /// `connection_made`, then reading.
    pub fn begin(&self, py: Python<'_>) -> PyResult<()> {
        match self {
            Transport::Stream(transport) => StreamTransport::begin(transport.bind(py)),
            Transport::Datagram(transport) => DatagramTransport::begin(transport.bind(py)),
            Transport::Pipe(transport) => PipeTransport::begin(transport.bind(py)),
        }
    }

    /// The kernel reported its descriptor.
    #[inline]
    pub fn on_ready(
        &self,
        event_loop: &Bound<'_, BaseEventLoop>,
        readiness: Readiness,
    ) -> PyResult<()> {
        let py = event_loop.py();
        match self {
            Transport::Stream(transport) => {
                StreamTransport::on_ready(transport.bind(py), event_loop, readiness)
            }
            Transport::Datagram(transport) => {
                DatagramTransport::on_ready(transport.bind(py), event_loop, readiness)
            }
            Transport::Pipe(transport) => {
                PipeTransport::on_ready(transport.bind(py), event_loop, readiness)
            }
        }
    }

    /// `connection_lost`, then its descriptor is closed.
    pub fn end(&self, event_loop: &Bound<'_, BaseEventLoop>) -> PyResult<()> {
        let py = event_loop.py();
        match self {
            Transport::Stream(transport) => StreamTransport::end(transport.bind(py), event_loop),
            Transport::Datagram(transport) => {
                DatagramTransport::end(transport.bind(py), event_loop)
            }
            Transport::Pipe(transport) => PipeTransport::end(transport.bind(py)),
        }
    }

    /// Its descriptor was closed behind its back, and the number serves somebody else.
    pub fn lost_descriptor(&self, py: Python<'_>) -> PyResult<()> {
        match self {
            Transport::Stream(transport) => StreamTransport::lost_descriptor(transport.bind(py)),
            Transport::Datagram(transport) => {
                DatagramTransport::lost_descriptor(transport.bind(py))
            }
            Transport::Pipe(transport) => PipeTransport::lost_descriptor(transport.bind(py)),
        }
    }

    /// Shows the transport to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Transport::Stream(transport) => visit.call(transport),
            Transport::Datagram(transport) => visit.call(transport),
            Transport::Pipe(transport) => visit.call(transport),
        }
    }
}
