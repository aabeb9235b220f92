//! What a datagram transport holds: its socket, its protocol, its unsent datagrams; and what it
//! tells about itself.

use std::collections::VecDeque;
use std::os::fd::RawFd;

use engine::poller::Token;
use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyContext, PyDict};
use rustix::net::{AddressFamily, getsockname};

use super::DatagramTransport;
use super::peers::Peers;
use crate::cpython::{context, descriptor};
use crate::event_loop::BaseEventLoop;
use crate::protocols::python::PythonProtocol;
use crate::transports::outgoing::FlowControl;

/// What the header of a datagram adds to its size (`_SelectorDatagramTransport._header_size`).
const HEADER: usize = 8;

/// A datagram that the kernel did not take yet.
pub struct Waiting {
    /// Its bytes, which nobody can change.
    pub data: Py<PyBytes>,
    /// Where it goes, as the program wrote it.
    pub target: Option<Py<PyAny>>,
}

/// The datagrams that wait, in order.
#[derive(Default)]
pub struct Queue {
    waiting: VecDeque<Waiting>,
    size: usize,
}

fn size_of(py: Python<'_>, datagram: &Waiting) -> usize {
    datagram.data.as_bytes(py).len() + HEADER
}

impl Queue {
    /// Whether nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes that wait, with a header for each datagram.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The last to be sent.
    pub fn push(&mut self, py: Python<'_>, datagram: Waiting) {
        self.size += size_of(py, &datagram);
        self.waiting.push_back(datagram);
    }

    /// The first to be sent again, because the kernel is full.
    pub fn put_back(&mut self, py: Python<'_>, datagram: Waiting) {
        self.size += size_of(py, &datagram);
        self.waiting.push_front(datagram);
    }

    /// The next to be sent.
    pub fn pop(&mut self, py: Python<'_>) -> Option<Waiting> {
        let datagram = self.waiting.pop_front()?;
        self.size -= size_of(py, &datagram);
        Some(datagram)
    }

    /// What waits, for whoever looks.
    pub fn copy(&self, py: Python<'_>) -> Vec<(Py<PyBytes>, Option<Py<PyAny>>)> {
        let pair = |datagram: &Waiting| {
            let target = datagram.target.as_ref().map(|target| target.clone_ref(py));
            (datagram.data.clone_ref(py), target)
        };
        self.waiting.iter().map(pair).collect()
    }
}

/// Whether the kernel knows where datagrams go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// It does not.
    None,
    /// It does, and all go there.
    Known,
    /// It does, for those sent without an address: the other end of a socket pair has no name.
    Nameless,
}

/// The mutable part of a `DatagramTransport`.
pub struct DatagramState {
    pub(super) home: Option<Py<BaseEventLoop>>,
    /// The socket object, which owns the descriptor; None once closed.
    pub(super) socket: Option<Py<PyAny>>,
    /// Its descriptor, also after it was closed: for `repr`.
    pub(super) number: RawFd,
    /// The program may close it behind our back: ask before every use.
    pub(super) lent: bool,
    /// The family, where it is one whose addresses we read; others are left to `socket` itself.
    pub(super) family: Option<AddressFamily>,
    pub(super) token: Option<Token>,
    pub(super) protocol: Option<PythonProtocol>,
    pub(super) context: Option<Py<PyContext>>,
    /// The only address that datagrams may be sent to.
    pub(super) address: Option<Py<PyAny>>,
    pub(super) peer: Peer,
    pub(super) peers: Peers,
    pub(super) queue: Queue,
    pub(super) flow: FlowControl,
    pub(super) waiter: Option<Py<PyAny>>,
    pub(super) extra: Option<Py<PyDict>>,
    /// What `connection_lost` will be told.
    pub(super) failure: Option<Py<PyAny>>,
    /// `connection_made` was called.
    pub(super) begun: bool,
    pub(super) closing: bool,
    pub(super) paused: bool,
    /// Zero while open; then counts datagrams sent into the void (`_conn_lost`).
    pub(super) lost: u32,
}

impl DatagramState {
    /// Of no socket.
    pub fn empty() -> Self {
        DatagramState {
            home: None,
            socket: None,
            number: -1,
            lent: false,
            family: None,
            token: None,
            protocol: None,
            context: None,
            address: None,
            peer: Peer::None,
            peers: Peers::default(),
            queue: Queue::default(),
            flow: FlowControl::DEFAULT,
            waiter: None,
            extra: None,
            failure: None,
            begun: false,
            closing: false,
            paused: false,
            lost: 0,
        }
    }

    /// Of a socket.
    pub fn new(
        event_loop: &Bound<'_, BaseEventLoop>,
        socket: &Bound<'_, PyAny>,
        protocol: &Bound<'_, PyAny>,
        address: Option<Py<PyAny>>,
        waiter: Option<Py<PyAny>>,
        extra: Option<Py<PyDict>>,
        lent: bool,
    ) -> PyResult<Self> {
        let py = socket.py();
        let number = descriptor::number(socket)?;
        let family = descriptor::lend(number, |fd| getsockname(fd))
            .ok()
            .map(|address| address.address_family())
            .filter(|family| {
                [AddressFamily::INET, AddressFamily::INET6, AddressFamily::UNIX].contains(family)
            });
        let peer = match &extra {
            Some(extra) => extra.bind(py).get_item(intern!(py, "peername"))?,
            None => None,
        };
        let peer = match peer {
            Some(peer) if peer.is_truthy()? => Peer::Known,
            Some(peer) if !peer.is_none() => Peer::Nameless,
            _ => Peer::None,
        };
        Ok(DatagramState {
            home: Some(event_loop.clone().unbind()),
            socket: Some(socket.clone().unbind()),
            number,
            lent,
            family,
            protocol: Some(PythonProtocol::new(protocol)?),
            context: Some(context::copy_current(py)?),
            address,
            peer,
            waiter,
            extra,
            ..DatagramState::empty()
        })
    }

    /// Whether datagrams are to be received.
    #[inline]
    pub(super) fn wants_to_read(&self) -> bool {
        !self.closing && !self.paused
    }

    /// Shows every Python object to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.home)?;
        visit.call(&self.socket)?;
        visit.call(&self.context)?;
        visit.call(&self.address)?;
        visit.call(&self.waiter)?;
        visit.call(&self.extra)?;
        visit.call(&self.failure)?;
        self.peers.traverse(visit)?;
        for datagram in &self.queue.waiting {
            visit.call(&datagram.target)?;
        }
        self.protocol.as_ref().map_or(Ok(()), |protocol| protocol.traverse(visit))
    }
}

impl DatagramTransport {
    /// The number of a socket that is certainly still ours; None when it is closed.
    #[inline]
    pub(super) fn descriptor(&self, py: Python<'_>) -> Option<RawFd> {
        let (fd, lent) = self.state.with(py, |state| {
            let socket = state.socket.as_ref()?;
            Some((state.number, state.lent.then(|| socket.clone_ref(py))))
        })?;
        match lent {
            None => Some(fd),
            Some(socket) => {
                let now = descriptor::any_number(socket.bind(py)).unwrap_or(-1);
                (now == fd).then_some(fd)
            }
        }
    }
}

/// `<DatagramTransport fd=7 read=polling write=<idle, bufsize=0>>`
pub fn describe(this: &Bound<'_, DatagramTransport>) -> PyResult<String> {
    let py = this.py();
    let mut parts = vec![this.get_type().name()?.to_string_lossy().into_owned()];
    this.get().state.with(py, |state| {
        let open = state.socket.is_some();
        if !open {
            parts.push("closed".to_owned());
        } else if state.closing {
            parts.push("closing".to_owned());
        }
        parts.push(format!("fd={}", state.number));
        if open {
            parts.push(if state.wants_to_read() { "read=polling" } else { "read=idle" }.to_owned());
            let writing = if state.queue.is_empty() { "idle" } else { "polling" };
            parts.push(format!("write=<{writing}, bufsize={}>", state.queue.size()));
        }
    });
    Ok(format!("<{}>", parts.join(" ")))
}
