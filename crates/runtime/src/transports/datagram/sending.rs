//! Datagrams from the program to the socket: tried at once, queued when the kernel is full.
//!
//! Never resolves a name itself: an address that is not written in numbers goes to the socket
//! object, which does what it does for asyncio.

use std::os::fd::RawFd;

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustix::net::{SendFlags, SocketAddrAny, send, sendto};

use super::DatagramTransport;
use super::state::{Peer, Waiting};
use crate::cpython::imports::imports;
use crate::cpython::{buffers, descriptor};
use crate::errors;
use crate::event_loop::turn::is_exit;
use crate::transports::address;
use crate::transports::outgoing::{LOG_THRESHOLD, check_type, is_full};

const WRITE_ERROR: &str = "Fatal write error on datagram transport";

/// What one attempt to send came to.
enum Sent {
    Whole,
    /// The kernel wants to be asked again later.
    Full,
    /// `error_received` is told.
    Refused(PyErr),
}

/// `transport.sendto`.
pub fn send_to(
    this: &Bound<'_, DatagramTransport>,
    data: &Bound<'_, PyAny>,
    addr: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let py = this.py();
    check_type(data)?;
    let (only, lost, open, idle) = this.get().state.with(py, |state| {
        let only = state.address.as_ref().map(|address| address.clone_ref(py));
        (only, state.lost, state.socket.is_some(), state.queue.is_empty())
    });
    let target = match &only {
        Some(only) => {
            let only = only.bind(py);
            if let Some(addr) = addr
                && !addr.eq(only)?
            {
                return Err(PyValueError::new_err(format!(
                    "Invalid address: must be None or {}",
                    only.str()?.to_string_lossy()
                )));
            }
            Some(only)
        }
        None => addr,
    };
    if lost > 0 && (only.is_some() || !open) {
        return into_the_void(this, lost);
    }
    if idle {
        match attempt(this, data, target) {
            Ok(Sent::Whole) => return Ok(()),
            Ok(Sent::Full) => {}
            Ok(Sent::Refused(error)) => {
                let Some(protocol) = this.get().protocol(py) else { return Ok(()) };
                return protocol.error_received(error.into_value(py).bind(py));
            }
            Err(error) if is_exit(py, &error) => return Err(error),
            Err(error) => return DatagramTransport::fatal(this, error, WRITE_ERROR),
        }
    }
    keep(this, data, target)
}

/// The endpoint is gone: what is sent is counted, and from the sixth on logged.
fn into_the_void(this: &Bound<'_, DatagramTransport>, lost: u32) -> PyResult<()> {
    let py = this.py();
    this.get().state.with(py, |state| state.lost = state.lost.saturating_add(1));
    if lost < LOG_THRESHOLD {
        return Ok(());
    }
    let logger = imports(py).logger.bind(py);
    logger.call_method1(intern!(py, "warning"), ("socket.send() raised exception.",)).map(drop)
}

/// Queues a datagram; what the program could change afterwards is copied.
fn keep(
    this: &Bound<'_, DatagramTransport>,
    data: &Bound<'_, PyAny>,
    target: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let py = this.py();
    let data = match data.cast_exact::<PyBytes>() {
        Ok(bytes) => bytes.clone(),
        Err(_) => buffers::read(data, |bytes| PyBytes::new(py, bytes))?,
    };
    let target = target.map(|target| target.clone().unbind());
    let datagram = Waiting { data: data.unbind(), target };
    this.get().state.with(py, |state| state.queue.push(py, datagram));
    this.get().rearm(py)?;
    maybe_pause(this)
}

/// One datagram to the kernel.
///
/// # Errors
/// What is no OSError: the address, or the data, is not one.
fn attempt(
    this: &Bound<'_, DatagramTransport>,
    data: &Bound<'_, PyAny>,
    target: Option<&Bound<'_, PyAny>>,
) -> PyResult<Sent> {
    let py = this.py();
    let Some(fd) = this.get().descriptor(py) else {
        return Ok(Sent::Refused(errors::from_errno(rustix::io::Errno::BADF)));
    };
    let peer = this.get().state.with(py, |state| state.peer);
    if peer == Peer::Known || (peer == Peer::Nameless && target.is_none()) {
        return natively(fd, data, None);
    }
    match target.and_then(|target| native_address(this, target)) {
        Some(address) => natively(fd, data, Some(&address)),
        None => by_python(this, data, target),
    }
}

#[inline]
fn native_address(
    this: &Bound<'_, DatagramTransport>,
    target: &Bound<'_, PyAny>,
) -> Option<SocketAddrAny> {
    let (family, known) =
        this.get().state.with(this.py(), |state| (state.family, state.peers.address_of(target)));
    match known {
        Some(address) => Some(address.into()),
        None => address::from_python(family?, target),
    }
}

#[inline]
fn natively(fd: RawFd, data: &Bound<'_, PyAny>, address: Option<&SocketAddrAny>) -> PyResult<Sent> {
    let flags = SendFlags::NOSIGNAL;
    let answer = buffers::read(data, |bytes| {
        descriptor::lend(fd, |fd| match address {
            None => send(fd, bytes, flags),
            Some(address) => sendto(fd, bytes, flags, address),
        })
    })?;
    Ok(match answer {
        Ok(_) => Sent::Whole,
        Err(error) if is_full(error) => Sent::Full,
        Err(error) => Sent::Refused(errors::from_errno(error)),
    })
}

/// Host names, and families that only `socket` itself can write addresses of.
fn by_python(
    this: &Bound<'_, DatagramTransport>,
    data: &Bound<'_, PyAny>,
    target: Option<&Bound<'_, PyAny>>,
) -> PyResult<Sent> {
    let py = this.py();
    let socket = this.get().state.with(py, |state| state.socket.as_ref().map(|s| s.clone_ref(py)));
    let Some(socket) = socket else { return Ok(Sent::Whole) };
    match socket.bind(py).call_method1(intern!(py, "sendto"), (data, target)) {
        Ok(_) => Ok(Sent::Whole),
        Err(error) if errors::would_block(py, &error) => Ok(Sent::Full),
        Err(error) if error.is_instance_of::<PyOSError>(py) => Ok(Sent::Refused(error)),
        Err(error) => Err(error),
    }
}

/// The socket takes datagrams again.
pub fn ready(this: &Bound<'_, DatagramTransport>) -> PyResult<()> {
    let py = this.py();
    while let Some(datagram) = this.get().state.with(py, |state| state.queue.pop(py)) {
        let target = datagram.target.as_ref().map(|target| target.bind(py));
        match attempt(this, datagram.data.bind(py).as_any(), target) {
            Ok(Sent::Whole) => {}
            Ok(Sent::Full) => {
                this.get().state.with(py, |state| state.queue.put_back(py, datagram));
                break;
            }
            Ok(Sent::Refused(error)) => {
                let error = error.into_value(py);
                let told =
                    this.get().in_context(py, |protocol| protocol.error_received(error.bind(py)));
                let message = "Exception in protocol.error_received()";
                DatagramTransport::reported(this, told, message)?;
            }
            Err(error) if is_exit(py, &error) => return Err(error),
            Err(error) => return DatagramTransport::fatal(this, error, WRITE_ERROR),
        }
    }
    maybe_resume(this)?;
    let (empty, closing, lost) =
        this.get().state.with(py, |state| (state.queue.is_empty(), state.closing, state.lost));
    if !empty || lost > 0 {
        return Ok(());
    }
    if closing {
        this.get().state.with(py, |state| state.lost += 1);
        return DatagramTransport::queue_end(this);
    }
    this.get().rearm(py)
}

/// `transport.set_write_buffer_limits`.
pub fn set_limits(
    this: &Bound<'_, DatagramTransport>,
    high: Option<isize>,
    low: Option<isize>,
) -> PyResult<()> {
    this.get().state.with(this.py(), |state| state.flow.set(high, low))?;
    maybe_pause(this)
}

/// Above the high mark the protocol is asked to stop, once.
fn maybe_pause(this: &Bound<'_, DatagramTransport>) -> PyResult<()> {
    let py = this.py();
    let pause = this.get().state.with(py, |state| state.flow.must_pause(state.queue.size()));
    let Some(protocol) = this.get().protocol(py).filter(|_| pause) else { return Ok(()) };
    DatagramTransport::reported(this, protocol.pause_writing(py), "protocol.pause_writing() failed")
}

/// Below the low mark it may go on.
fn maybe_resume(this: &Bound<'_, DatagramTransport>) -> PyResult<()> {
    let py = this.py();
    let resume = this.get().state.with(py, |state| state.flow.may_resume(state.queue.size()));
    if !resume || this.get().protocol(py).is_none() {
        return Ok(());
    }
    let outcome = this.get().in_context(py, |protocol| protocol.resume_writing(py));
    DatagramTransport::reported(this, outcome, "protocol.resume_writing() failed")
}
