//! `sock_recv`, `sock_recv_into`, `sock_sendall`: tried at once, and only then waited for.
//!
//! The coroutines are Python (`aioxide/sockets.py`); what they call here answers with the result
//! when the kernel has it, or with a Future that the turn completes.

use std::os::fd::RawFd;

use pyo3::PyTraverseError;
use pyo3::exceptions::PyMemoryError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::BaseEventLoop;
use super::home::Home;
use super::watch::{self, Side};
use crate::cpython::{buffers, descriptor};
use crate::errors;
use crate::futures::{Future, Phase, completion};

/// What fits into the loop's scratch buffer: larger reads get a buffer of their own.
pub const SCRATCH: usize = 256 * 1024;

/// What a waiting `sock_*` call is about to do.
enum Action {
    Receive(usize),
    ReceiveInto(Py<PyAny>),
    Send { data: Py<PyAny>, sent: usize },
}

/// A `sock_*` call that waits for its descriptor.
pub struct Operation {
    future: Py<Future>,
    action: Action,
}

impl Operation {
    /// Shows every Python object to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.future)?;
        match &self.action {
            Action::Receive(_) => Ok(()),
            Action::ReceiveInto(object) | Action::Send { data: object, .. } => visit.call(object),
        }
    }

    /// Whether it completes this future.
    pub fn is_for(&self, future: &Bound<'_, PyAny>) -> bool {
        self.future.is(future)
    }
}

/// What one attempt came to: done with a result, or to be tried again when ready.
enum Attempt {
    Done(Py<PyAny>),
    Wait(Action),
}

fn would_block(error: Errno) -> bool {
    error == Errno::AGAIN || error == Errno::INTR
}

fn attempt(event_loop: &Bound<'_, BaseEventLoop>, fd: RawFd, action: Action) -> PyResult<Attempt> {
    let py = event_loop.py();
    match action {
        Action::Receive(limit) => match receive(event_loop, fd, limit) {
            Ok(bytes) => Ok(Attempt::Done(bytes.into_any())),
            Err(error) if would_block(error) => Ok(Attempt::Wait(Action::Receive(limit))),
            Err(Errno::NOMEM) => Err(PyMemoryError::new_err(())),
            Err(error) => Err(errors::from_errno(error)),
        },
        Action::ReceiveInto(buffer) => {
            let answer = buffers::write(buffer.bind(py), |bytes| {
                descriptor::lend(fd, |fd| recv(fd, bytes, RecvFlags::empty()))
            })?;
            match answer {
                Ok((count, _)) => Ok(Attempt::Done(count.into_pyobject(py)?.into_any().unbind())),
                Err(error) if would_block(error) => Ok(Attempt::Wait(Action::ReceiveInto(buffer))),
                Err(error) => Err(errors::from_errno(error)),
            }
        }
        Action::Send { data, mut sent } => {
            let answer = buffers::read(data.bind(py), |bytes| {
                if sent >= bytes.len() {
                    return Ok(true);
                }
                let count =
                    descriptor::lend(fd, |fd| send(fd, &bytes[sent..], SendFlags::NOSIGNAL))?;
                sent += count;
                Ok(sent == bytes.len())
            })?;
            match answer {
                Ok(true) => Ok(Attempt::Done(py.None())),
                Ok(false) => Ok(Attempt::Wait(Action::Send { data, sent })),
                Err(error) if would_block(error) => Ok(Attempt::Wait(Action::Send { data, sent })),
                Err(error) => Err(errors::from_errno(error)),
            }
        }
    }
}

/// One `recv` through the loop's scratch buffer, then one exact `bytes`: never the maximum
/// allocated and shrunk, which costs glibc an mmap and an munmap for every message.
fn receive(
    event_loop: &Bound<'_, BaseEventLoop>,
    fd: RawFd,
    limit: usize,
) -> Result<Py<PyBytes>, Errno> {
    let py = event_loop.py();
    if limit > SCRATCH {
        let mut own = Vec::new();
        own.try_reserve_exact(limit).map_err(|_| Errno::NOMEM)?;
        own.resize(limit, 0);
        let (count, _) =
            descriptor::lend(fd, |fd| recv(fd, own.as_mut_slice(), RecvFlags::empty()))?;
        return Ok(PyBytes::new(py, &own[..count]).unbind());
    }
    let mut scratch = event_loop.get().take_scratch(py);
    let answer = descriptor::lend(fd, |fd| recv(fd, &mut scratch[..limit], RecvFlags::empty()));
    let bytes = answer.map(|(count, _)| PyBytes::new(py, &scratch[..count]).unbind());
    event_loop.get().give_scratch(py, scratch);
    bytes
}

fn begin(
    event_loop: &Bound<'_, BaseEventLoop>,
    fd: RawFd,
    side: Side,
    action: Action,
) -> PyResult<Py<PyAny>> {
    let py = event_loop.py();
    match attempt(event_loop, fd, action)? {
        Attempt::Done(result) => Ok(result),
        Attempt::Wait(action) => {
            watch::ensure_unused(event_loop, fd, || fd.to_string())?;
            let home = Home::Native(event_loop.clone().unbind());
            let future = Py::new(py, Future::pending(py, home)?)?;
            let operation = Operation { future: future.clone_ref(py), action };
            watch::wait_for(event_loop, fd, side, operation)?;
            Ok(future.into_any())
        }
    }
}

/// `sock.recv(limit)`: bytes, or a Future of them.
pub fn receive_some(
    event_loop: &Bound<'_, BaseEventLoop>,
    fd: RawFd,
    limit: usize,
) -> PyResult<Py<PyAny>> {
    begin(event_loop, fd, Side::Read, Action::Receive(limit))
}

/// `sock.recv_into(buffer)`: a count, or a Future of it.
pub fn receive_into(
    event_loop: &Bound<'_, BaseEventLoop>,
    fd: RawFd,
    buffer: &Bound<'_, PyAny>,
) -> PyResult<Py<PyAny>> {
    begin(event_loop, fd, Side::Read, Action::ReceiveInto(buffer.clone().unbind()))
}

/// `sock.sendall(data)`: None, or a Future of it.
pub fn send_all(
    event_loop: &Bound<'_, BaseEventLoop>,
    fd: RawFd,
    data: &Bound<'_, PyAny>,
) -> PyResult<Py<PyAny>> {
    let action = Action::Send { data: data.clone().unbind(), sent: 0 };
    begin(event_loop, fd, Side::Write, action)
}

/// The descriptor of a waiting operation is ready: try again.
pub fn resume(
    event_loop: &Bound<'_, BaseEventLoop>,
    fd: RawFd,
    side: Side,
    operation: Operation,
) -> PyResult<()> {
    let py = event_loop.py();
    let Operation { future, action } = operation;
    let bound = future.bind(py);
    if bound.get().phase(py) != Phase::Pending {
        return Ok(());
    }
    match attempt(event_loop, fd, action) {
        Ok(Attempt::Done(result)) => completion::set_result(bound, result),
        Ok(Attempt::Wait(action)) => {
            watch::wait_for(event_loop, fd, side, Operation { future, action })
        }
        Err(error) => completion::set_exception(bound, error.into_value(py).bind(py)),
    }
}
