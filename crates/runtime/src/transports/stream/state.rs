//! What a stream transport holds: its socket, its protocol, its unsent bytes; and what it tells
//! about itself.

use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};

use engine::poller::Token;
use engine::write_buffer::WriteBuffer;
use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyContext, PyDict};
use rustix::net::{SocketAddrAny, getsockname};

use super::StreamTransport;
use super::lifetime::Parts;
use crate::cpython::descriptor;
use crate::cpython::imports::imports;
use crate::event_loop::BaseEventLoop;
use crate::futures::Future;
use crate::protocols::Protocol;
use crate::transports::address;
use crate::transports::outgoing::FlowControl;

/// Who owns the socket's descriptor.
pub enum Descriptor {
    /// We do.
    Owned(OwnedFd),
    /// A Python socket object does; `lent` when the program holds that object too.
    Python {
        /// The socket object.
        socket: Py<PyAny>,
        /// Its number when it came to us.
        fd: RawFd,
        /// The program may close it behind our back: ask before every use.
        lent: bool,
    },
    /// Nobody any more.
    Closed,
}

impl Descriptor {
    /// The number; -1 when closed.
    #[inline]
    pub fn number(&self) -> RawFd {
        match self {
            Descriptor::Owned(owned) => owned.as_raw_fd(),
            Descriptor::Python { fd, .. } => *fd,
            Descriptor::Closed => -1,
        }
    }

    /// Whether there is a socket.
    pub fn is_open(&self) -> bool {
        !matches!(self, Descriptor::Closed)
    }

    /// Closes the socket.
    pub fn close(self, py: Python<'_>) -> PyResult<()> {
        match self {
            Descriptor::Owned(owned) => {
                drop(owned);
                Ok(())
            }
            Descriptor::Python { socket, .. } => {
                socket.bind(py).call_method0(intern!(py, "close")).map(drop)
            }
            Descriptor::Closed => Ok(()),
        }
    }

    /// Forgets a descriptor that somebody else closed: closing the number would hit its successor.
    pub fn abandon(self) {
        if let Descriptor::Owned(owned) = self {
            let _ = owned.into_raw_fd();
        }
    }
}

/// The mutable part of a `StreamTransport`.
pub struct StreamState {
    pub(super) home: Option<Py<BaseEventLoop>>,
    pub(super) descriptor: Descriptor,
    /// Its number, also after it was closed: for `repr`.
    pub(super) number: RawFd,
    pub(super) token: Option<Token>,
    pub(super) protocol: Option<Protocol>,
    pub(super) context: Option<Py<PyContext>>,
    pub(super) buffer: WriteBuffer<PyBackedBytes>,
    pub(super) flow: FlowControl,
    pub(super) server: Option<Py<PyAny>>,
    pub(super) waiter: Option<Py<PyAny>>,
    pub(super) extra: Option<Py<PyDict>>,
    pub(super) peer: Option<Box<SocketAddrAny>>,
    /// What `connection_lost` will be told.
    pub(super) failure: Option<Py<PyAny>>,
    /// `connection_made` was called.
    pub(super) begun: bool,
    /// The protocol is owed a `connection_lost`.
    pub(super) protocol_connected: bool,
    pub(super) closing: bool,
    pub(super) paused: bool,
    /// The peer will send nothing more, and the protocol wants to go on writing.
    pub(super) eof_seen: bool,
    pub(super) eof_written: bool,
    /// How many bytes a `bytes` object gets room for before a read; zero: read elsewhere first.
    pub(super) room: u32,
    /// A file is on its way (`loop.sendfile`), and whoever sends it waits for this.
    pub(super) file: bool,
    pub(super) file_waiter: Option<Py<Future>>,
    /// Zero while connected; then counts writes into the void (`_conn_lost`).
    pub(super) lost: u32,
}

impl StreamState {
    /// Of no connection.
    pub fn empty() -> Self {
        StreamState {
            home: None,
            descriptor: Descriptor::Closed,
            number: -1,
            token: None,
            protocol: None,
            context: None,
            buffer: WriteBuffer::new(),
            flow: FlowControl::DEFAULT,
            server: None,
            waiter: None,
            extra: None,
            peer: None,
            failure: None,
            begun: false,
            protocol_connected: false,
            closing: false,
            paused: false,
            eof_seen: false,
            eof_written: false,
            room: 0,
            file: false,
            file_waiter: None,
            lost: 0,
        }
    }

    /// Of a new connection.
    pub fn new(home: Py<BaseEventLoop>, parts: Parts) -> Self {
        StreamState {
            home: Some(home),
            number: parts.descriptor.number(),
            descriptor: parts.descriptor,
            protocol: Some(parts.protocol),
            context: Some(parts.context),
            server: parts.server,
            waiter: parts.waiter,
            extra: parts.extra,
            peer: parts.peer.map(Box::new),
            ..StreamState::empty()
        }
    }

    /// Whether the kernel should report that bytes arrived.
    #[inline]
    pub fn wants_to_read(&self) -> bool {
        !self.closing && !self.paused && !self.eof_seen
    }

    /// Whether the kernel should report that bytes can be sent.
    #[inline]
    pub fn wants_to_write(&self) -> bool {
        !self.buffer.is_empty() || self.file_waiter.is_some()
    }

    /// Shows every Python object to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.file_waiter)?;
        visit.call(&self.home)?;
        visit.call(&self.context)?;
        visit.call(&self.server)?;
        visit.call(&self.waiter)?;
        visit.call(&self.extra)?;
        visit.call(&self.failure)?;
        if let Descriptor::Python { socket, .. } = &self.descriptor {
            visit.call(socket)?;
        }
        self.protocol.as_ref().map_or(Ok(()), |protocol| protocol.traverse(visit))
    }
}

impl StreamTransport {
    /// The number of a socket that is certainly still ours; None when it was closed by others.
    #[inline]
    pub(super) fn descriptor(&self, py: Python<'_>) -> Option<RawFd> {
        let lent = self.state.with(py, |state| match &state.descriptor {
            Descriptor::Owned(owned) => Ok(Some(owned.as_raw_fd())),
            Descriptor::Python { fd, lent: false, .. } => Ok(Some(*fd)),
            Descriptor::Python { socket, fd, lent: true } => Err((socket.clone_ref(py), *fd)),
            Descriptor::Closed => Ok(None),
        });
        match lent {
            Ok(fd) => fd,
            Err((socket, fd)) => {
                let now = descriptor::any_number(socket.bind(py)).unwrap_or(-1);
                (now == fd).then_some(fd)
            }
        }
    }

    fn put_extra(&self, py: Python<'_>, name: &str, value: Py<PyAny>) -> PyResult<()> {
        let extra = match self.state.with(py, |state| state.extra.as_ref().map(|e| e.clone_ref(py)))
        {
            Some(extra) => extra,
            None => {
                let extra = PyDict::new(py).unbind();
                self.state.with(py, |state| state.extra = Some(extra.clone_ref(py)));
                extra
            }
        };
        extra.bind(py).set_item(name, value)
    }

    fn known_extra(&self, py: Python<'_>, name: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
        let extra = self.state.with(py, |state| state.extra.as_ref().map(|e| e.clone_ref(py)));
        match extra {
            Some(extra) => Ok(extra.bind(py).get_item(name)?.map(Bound::unbind)),
            None => Ok(None),
        }
    }

    /// Keeps the addresses of an accepted socket for after its end, as asyncio's `_extra` does.
    pub(super) fn remember_addresses(&self, py: Python<'_>) {
        for name in ["sockname", "peername"] {
            let name = intern_name(py, name);
            if let Ok(None) = self.known_extra(py, &name)
                && let Ok(Some(value)) = self.native_address(py, &name)
            {
                let _ = self.put_extra(py, &name.to_string(), value);
            }
        }
    }

    /// An address that only the kernel or `accept` told us; None for sockets Python made.
    fn native_address(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
    ) -> PyResult<Option<Py<PyAny>>> {
        let is_local = name.eq("sockname")?;
        let (fd, peer) = self
            .state
            .with(py, |state| (state.descriptor.number(), state.peer.as_deref().cloned()));
        let Some(peer) = peer else { return Ok(None) };
        let known = if is_local {
            if fd < 0 {
                return Ok(None);
            }
            match descriptor::lend(fd, |fd| getsockname(fd)) {
                Ok(address) => address,
                Err(_) => return Ok(None),
            }
        } else {
            peer
        };
        address::to_python(py, &known).map(Some)
    }
}

fn intern_name<'py>(py: Python<'py>, name: &str) -> Bound<'py, PyAny> {
    pyo3::types::PyString::intern(py, name).into_any()
}

/// The Python socket of a transport, made on demand: it owns the descriptor from then on.
pub fn python_socket(this: &Bound<'_, StreamTransport>) -> PyResult<Option<Py<PyAny>>> {
    let py = this.py();
    let owned = this.get().state.with(py, |state| {
        match std::mem::replace(&mut state.descriptor, Descriptor::Closed) {
            Descriptor::Owned(owned) => Ok(owned),
            Descriptor::Python { socket, fd, lent } => {
                let copy = socket.clone_ref(py);
                state.descriptor = Descriptor::Python { socket, fd, lent };
                Err(Some(copy))
            }
            Descriptor::Closed => Err(None),
        }
    });
    let owned = match owned {
        Ok(owned) => owned,
        Err(known) => return Ok(known),
    };
    let fd = owned.as_raw_fd();
    let family = descriptor::lend(fd, |fd| getsockname(fd))
        .map_or(-1, |address| i32::from(address.address_family().as_raw()));
    let class = imports(py).socket.bind(py);
    let socket = descriptor::give(class, owned, family, rustix_stream(), 0)?;
    socket.bind(py).call_method1(intern!(py, "setblocking"), (false,))?;
    let copy = socket.clone_ref(py);
    this.get().state.with(py, |state| {
        state.descriptor = Descriptor::Python { socket, fd, lent: false };
    });
    Ok(Some(copy))
}

/// What asyncio still has of a connection that is gone: a socket object that is closed. One that
/// nobody asked for while it was open is made, and closed at once, for whoever asks afterwards.
fn closed_socket(this: &Bound<'_, StreamTransport>) -> PyResult<Option<Py<PyAny>>> {
    let py = this.py();
    if !this.get().state.with(py, |state| state.number >= 0) {
        return Ok(None);
    }
    let socket = imports(py).socket.bind(py).call0()?;
    socket.call_method0(intern!(py, "close"))?;
    Ok(Some(imports(py).transport_socket.bind(py).call1((socket,))?.unbind()))
}

fn rustix_stream() -> i32 {
    rustix::net::SocketType::STREAM.as_raw() as i32
}

/// `transport.get_extra_info`.
pub fn extra_info(
    this: &Bound<'_, StreamTransport>,
    name: &Bound<'_, PyAny>,
    default: Option<Py<PyAny>>,
) -> PyResult<Option<Py<PyAny>>> {
    let py = this.py();
    if let Some(value) = this.get().known_extra(py, name)? {
        return Ok(Some(value));
    }
    let Ok(text) = name.extract::<&str>() else { return Ok(default) };
    let value = match text {
        "socket" => match python_socket(this)? {
            Some(socket) => Some(imports(py).transport_socket.bind(py).call1((socket,))?.unbind()),
            None => closed_socket(this)?,
        },
        "sockname" | "peername" => this.get().native_address(py, name)?,
        _ => None,
    };
    match value {
        Some(value) => {
            this.get().put_extra(py, text, value.clone_ref(py))?;
            Ok(Some(value))
        }
        None => Ok(default),
    }
}

/// `<StreamTransport fd=7 read=polling write=<idle, bufsize=0>>`
pub fn describe(this: &Bound<'_, StreamTransport>) -> PyResult<String> {
    let py = this.py();
    let mut parts = vec![this.get_type().name()?.to_string_lossy().into_owned()];
    this.get().state.with(py, |state| {
        if !state.descriptor.is_open() {
            parts.push("closed".to_owned());
        } else if state.closing {
            parts.push("closing".to_owned());
        }
        parts.push(format!("fd={}", state.number));
        if state.descriptor.is_open() {
            parts.push(if state.wants_to_read() { "read=polling" } else { "read=idle" }.to_owned());
            let size = state.buffer.len();
            let writing = if size == 0 { "idle" } else { "polling" };
            parts.push(format!("write=<{writing}, bufsize={size}>"));
        }
    });
    Ok(format!("<{}>", parts.join(" ")))
}
