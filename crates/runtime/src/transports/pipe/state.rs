//! What a pipe transport holds: its file, its protocol, its unsent bytes; and what it tells about
//! itself. Used by the other files of this folder; it never reads or writes.

use std::os::fd::{OwnedFd, RawFd};

use engine::poller::{Interest, Token};
use engine::write_buffer::WriteBuffer;
use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyContext, PyDict};

use super::PipeTransport;
use crate::cpython::descriptor;
use crate::event_loop::BaseEventLoop;
use crate::protocols::python::PythonProtocol;
use crate::transports::outgoing::FlowControl;

/// Which end of a pipe this is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Bytes come in.
    Read,
    /// Bytes go out. `watched`: the kernel tells when the reader is gone, as it does for FIFOs and
    /// sockets, and for character devices does not.
    Write {
        /// Whether the reader's going is looked out for.
        watched: bool,
    },
}

/// The mutable part of a `PipeTransport`.
pub struct PipeState {
    pub(super) end: End,
    pub(super) home: Option<Py<BaseEventLoop>>,
    /// The Python file whose descriptor this is; closing it closes the pipe.
    pub(super) pipe: Option<Py<PyAny>>,
    /// Its number when it came to us.
    pub(super) fd: RawFd,
    /// The pipe of a child: nobody else closes the file, and its owner says when to begin.
    pub(super) of_child: bool,
    /// Registered in place of `fd`, where the loop watches that number for somebody else already.
    pub(super) duplicate: Option<OwnedFd>,
    pub(super) token: Option<Token>,
    pub(super) protocol: Option<PythonProtocol>,
    pub(super) context: Option<Py<PyContext>>,
    pub(super) waiter: Option<Py<PyAny>>,
    pub(super) extra: Option<Py<PyDict>>,
    /// What `connection_lost` will be told.
    pub(super) failure: Option<Py<PyAny>>,
    pub(super) begun: bool,
    pub(super) closing: bool,
    /// `connection_lost` is queued.
    pub(super) ended: bool,
    pub(super) paused: bool,
    pub(super) buffer: WriteBuffer<PyBackedBytes>,
    pub(super) flow: FlowControl,
    /// Counts writes into the void (`_conn_lost`).
    pub(super) lost: u32,
}

impl PipeState {
    /// Of no pipe.
    pub fn empty(end: End) -> Self {
        PipeState {
            end,
            home: None,
            pipe: None,
            fd: -1,
            of_child: false,
            duplicate: None,
            token: None,
            protocol: None,
            context: None,
            waiter: None,
            extra: None,
            failure: None,
            begun: false,
            closing: false,
            ended: false,
            paused: false,
            buffer: WriteBuffer::new(),
            flow: FlowControl::DEFAULT,
            lost: 0,
        }
    }

    /// What the kernel should report.
    pub fn interest(&self) -> Interest {
        if !self.begun || self.ended {
            return Interest::NONE;
        }
        match self.end {
            End::Read => Interest { read: !self.closing && !self.paused, write: false },
            End::Write { watched } => Interest { read: watched, write: !self.buffer.is_empty() },
        }
    }

    /// Shows every Python object to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.home)?;
        visit.call(&self.pipe)?;
        visit.call(&self.context)?;
        visit.call(&self.waiter)?;
        visit.call(&self.extra)?;
        visit.call(&self.failure)?;
        self.protocol.as_ref().map_or(Ok(()), |protocol| protocol.traverse(visit))
    }
}

impl PipeTransport {
    /// The number of a pipe that is certainly still ours; None when its file was closed by others.
    pub(super) fn descriptor(&self, py: Python<'_>) -> Option<RawFd> {
        let (pipe, fd, of_child) = self.state.with(py, |state| {
            let pipe = state.pipe.as_ref().map(|pipe| pipe.clone_ref(py));
            (pipe, state.fd, state.of_child)
        });
        let pipe = pipe?;
        if of_child {
            return Some(fd);
        }
        let now = descriptor::any_number(pipe.bind(py)).unwrap_or(-1);
        (now == fd).then_some(fd)
    }

    /// Closing, or closed.
    pub fn is_closing(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.closing)
    }
}

/// `transport.get_extra_info`: "pipe", and what the maker of the transport gave.
pub fn extra_info(
    this: &Bound<'_, PipeTransport>,
    name: &Bound<'_, PyAny>,
    default: Option<Py<PyAny>>,
) -> PyResult<Option<Py<PyAny>>> {
    let py = this.py();
    let extra = this.get().state.with(py, |state| state.extra.as_ref().map(|e| e.clone_ref(py)));
    let known = match extra {
        Some(extra) => extra.bind(py).get_item(name)?.map(Bound::unbind),
        None => None,
    };
    Ok(known.or(default))
}

/// `<ReadPipeTransport fd=7 polling>`; "open" stands where there is no loop to poll it any more.
pub fn describe(this: &Bound<'_, PipeTransport>) -> PyResult<String> {
    let py = this.py();
    let home = this.get().state.with(py, |state| state.home.as_ref().map(|it| it.clone_ref(py)));
    let closed_loop = home.is_none_or(|home| home.get().flags(py).closed);
    let mut parts = vec![this.get_type().getattr(intern!(py, "__name__"))?.extract::<String>()?];
    this.get().state.with(py, |state| {
        if state.pipe.is_none() {
            parts.push("closed".to_owned());
        } else if state.closing {
            parts.push("closing".to_owned());
        }
        parts.push(format!("fd={}", state.fd));
        if state.pipe.is_none() {
            parts.push("closed".to_owned());
        } else if closed_loop {
            parts.push("open".to_owned());
        } else {
            let interest = state.interest();
            let polling = match state.end {
                End::Read => interest.read,
                End::Write { .. } => interest.write,
            };
            parts.push(if polling { "polling" } else { "idle" }.to_owned());
            if state.end != End::Read {
                parts.push(format!("bufsize={}", state.buffer.len()));
            }
        }
    });
    Ok(format!("<{}>", parts.join(" ")))
}
