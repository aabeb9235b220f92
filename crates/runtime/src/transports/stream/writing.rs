//! Bytes from the program to the socket: tried at once, buffered when the kernel is full.

use std::io::IoSlice;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, Shutdown, send, sendmsg, shutdown};

use engine::write_buffer::MAX_SLICES;

use super::{StreamTransport, sendfile};
use crate::cpython::imports::imports;
use crate::cpython::{buffers, descriptor};
use crate::errors;
use crate::event_loop::turn::is_exit;
use crate::transports::outgoing::{self, LOG_THRESHOLD, check_type, is_full};

const WRITE_ERROR: &str = "Fatal write error on socket transport";

/// `transport.write`.
pub fn write(this: &Bound<'_, StreamTransport>, data: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = this.py();
    check_type(data)?;
    if !may_write(this, "write")? {
        return Ok(());
    }
    if !this.get().state.with(py, |state| state.buffer.is_empty()) {
        return keep(this, data, 0);
    }
    let Some(fd) = this.get().descriptor(py) else {
        return StreamTransport::lost_descriptor(this);
    };
    let answer = buffers::read(data, |bytes| {
        if bytes.is_empty() {
            return (Ok(0), 0);
        }
        (descriptor::lend(fd, |fd| send(fd, bytes, SendFlags::NOSIGNAL)), bytes.len())
    });
    match answer {
        Err(error) => StreamTransport::fatal(this, error, WRITE_ERROR),
        Ok((Ok(sent), length)) if sent == length => Ok(()),
        Ok((Ok(sent), _)) => keep(this, data, sent),
        Ok((Err(error), _)) if is_full(error) => keep(this, data, 0),
        Ok((Err(error), _)) => StreamTransport::fatal(this, errors::from_errno(error), WRITE_ERROR),
    }
}

/// Whether anything can still be written; counts writes into a lost connection.
fn may_write(this: &Bound<'_, StreamTransport>, method: &str) -> PyResult<bool> {
    let py = this.py();
    let (eof, file, lost) = this.get().state.with(py, |state| {
        if state.lost > 0 && !state.eof_written {
            state.lost = state.lost.saturating_add(1);
        }
        (state.eof_written, state.file, state.lost)
    });
    if eof {
        return Err(PyRuntimeError::new_err(format!("Cannot call {method}() after write_eof()")));
    }
    if file {
        let message = format!("unable to {method}; sendfile is in progress");
        return Err(PyRuntimeError::new_err(message));
    }
    if lost > LOG_THRESHOLD {
        let logger = imports(py).logger.bind(py);
        logger.call_method1(intern!(py, "warning"), ("socket.send() raised exception.",))?;
    }
    Ok(lost == 0)
}

/// Buffers what the kernel did not take.
fn keep(this: &Bound<'_, StreamTransport>, data: &Bound<'_, PyAny>, sent: usize) -> PyResult<()> {
    let py = this.py();
    let Some(rest) = outgoing::rest(data, sent)? else { return Ok(()) };
    this.get().state.with(py, |state| state.buffer.push(rest));
    this.get().rearm(py)?;
    maybe_pause(this)
}

/// `transport.writelines`: everything goes through the buffer and leaves in one system call.
pub fn writelines(this: &Bound<'_, StreamTransport>, list: &Bound<'_, PyAny>) -> PyResult<()> {
    write_pieces(this, outgoing::pieces(list)?)
}

/// The same for pieces that were checked and are not empty.
pub fn write_pieces(this: &Bound<'_, StreamTransport>, chunks: Vec<PyBackedBytes>) -> PyResult<()> {
    let py = this.py();
    if !may_write(this, "writelines")? || chunks.is_empty() {
        return Ok(());
    }
    let was_empty = this.get().state.with(py, |state| {
        let was_empty = state.buffer.is_empty();
        chunks.into_iter().for_each(|chunk| state.buffer.push(chunk));
        was_empty
    });
    if was_empty && let Err(error) = flush(this) {
        return failed(this, error);
    }
    this.get().rearm(py)?;
    maybe_pause(this)
}

/// Why a flush stopped for good.
enum Broken {
    Kernel(Errno),
    Descriptor,
}

/// Sends buffered bytes until the kernel is full or nothing is left.
fn flush(this: &Bound<'_, StreamTransport>) -> Result<(), Broken> {
    let py = this.py();
    let Some(fd) = this.get().descriptor(py) else { return Err(Broken::Descriptor) };
    let answer = this.get().state.with(py, |state| {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let count = state.buffer.slices(&mut slices);
        if count == 0 {
            return Ok(0);
        }
        descriptor::lend(fd, |fd| {
            let mut nothing = SendAncillaryBuffer::default();
            sendmsg(fd, &slices[..count], &mut nothing, SendFlags::NOSIGNAL)
        })
    });
    match answer {
        Ok(sent) => {
            this.get().state.with(py, |state| state.buffer.advance(sent));
            Ok(())
        }
        Err(error) if is_full(error) => Ok(()),
        Err(error) => Err(Broken::Kernel(error)),
    }
}

fn failed(this: &Bound<'_, StreamTransport>, broken: Broken) -> PyResult<()> {
    match broken {
        Broken::Descriptor => StreamTransport::lost_descriptor(this),
        Broken::Kernel(error) => {
            StreamTransport::fatal(this, errors::from_errno(error), WRITE_ERROR)
        }
    }
}

/// The socket takes bytes again.
pub fn ready(this: &Bound<'_, StreamTransport>) -> PyResult<()> {
    let py = this.py();
    if let Err(broken) = flush(this) {
        return failed(this, broken);
    }
    maybe_resume(this)?;
    let (empty, closing, eof, lost) = this
        .get()
        .state
        .with(py, |state| (state.buffer.is_empty(), state.closing, state.eof_written, state.lost));
    if !empty || lost > 0 {
        return Ok(());
    }
    if closing {
        this.get().state.with(py, |state| state.lost += 1);
        return StreamTransport::queue_end(this);
    }
    sendfile::ready(this)?;
    this.get().rearm(py)?;
    if eof { shut_down(this) } else { Ok(()) }
}

/// `transport.write_eof`.
pub fn write_eof(this: &Bound<'_, StreamTransport>) -> PyResult<()> {
    let py = this.py();
    let now = this.get().state.with(py, |state| {
        if state.closing || state.eof_written {
            return false;
        }
        state.eof_written = true;
        state.buffer.is_empty()
    });
    if now { shut_down(this) } else { Ok(()) }
}

fn shut_down(this: &Bound<'_, StreamTransport>) -> PyResult<()> {
    let Some(fd) = this.get().descriptor(this.py()) else {
        return StreamTransport::lost_descriptor(this);
    };
    match descriptor::lend(fd, |fd| shutdown(fd, Shutdown::Write)) {
        Ok(()) | Err(Errno::NOTCONN) => Ok(()),
        Err(error) => Err(errors::from_errno(error)),
    }
}

/// `transport.set_write_buffer_limits`.
pub fn set_limits(
    this: &Bound<'_, StreamTransport>,
    high: Option<isize>,
    low: Option<isize>,
) -> PyResult<()> {
    let py = this.py();
    this.get().state.with(py, |state| state.flow.set(high, low))?;
    maybe_pause(this)
}

/// Above the high mark the protocol is asked to stop, once.
fn maybe_pause(this: &Bound<'_, StreamTransport>) -> PyResult<()> {
    let py = this.py();
    let pause = this.get().state.with(py, |state| state.flow.must_pause(state.buffer.len()));
    let Some(protocol) = this.get().protocol(py).filter(|_| pause) else { return Ok(()) };
    told(this, protocol.pause_writing(py), "protocol.pause_writing() failed")
}

/// Below the low mark it may go on.
fn maybe_resume(this: &Bound<'_, StreamTransport>) -> PyResult<()> {
    let py = this.py();
    let resume = this.get().state.with(py, |state| state.flow.may_resume(state.buffer.len()));
    if !resume || this.get().protocol(py).is_none() {
        return Ok(());
    }
    let outcome = this.get().in_context(py, |protocol| protocol.resume_writing(py));
    told(this, outcome, "protocol.resume_writing() failed")
}

/// A failing `pause_writing` or `resume_writing` is reported and changes nothing else.
fn told(this: &Bound<'_, StreamTransport>, outcome: PyResult<()>, message: &str) -> PyResult<()> {
    let py = this.py();
    let Err(error) = outcome else { return Ok(()) };
    if is_exit(py, &error) {
        return Err(error);
    }
    let home = this.get().state.with(py, |state| state.home.as_ref().map(|h| h.clone_ref(py)));
    let Some(home) = home else { return Ok(()) };
    StreamTransport::tell(this, home.bind(py).as_any(), error, message)
}
