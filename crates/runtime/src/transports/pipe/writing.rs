//! Bytes from the program to a pipe: tried at once, kept when the pipe is full.
//!
//! The pipe's other end is watched too: a reader that is gone ends the transport, although nothing
//! is being written.

use std::io::IoSlice;

use engine::write_buffer::MAX_SLICES;
use pyo3::exceptions::PyBrokenPipeError;
use pyo3::intern;
use pyo3::prelude::*;
use rustix::io::{Errno, write as write_to, writev};

use super::PipeTransport;
use crate::cpython::imports::imports;
use crate::cpython::{buffers, descriptor};
use crate::errors;
use crate::transports::outgoing::{self, LOG_THRESHOLD, check_type, is_full};

const WRITE_ERROR: &str = "Fatal write error on pipe transport";

/// `transport.write`.
pub fn write(this: &Bound<'_, PipeTransport>, data: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = this.py();
    check_type(data)?;
    if buffers::read(data, <[u8]>::is_empty)? || !may_write(this)? {
        return Ok(());
    }
    if !this.get().state.with(py, |state| state.buffer.is_empty()) {
        return keep(this, data, 0);
    }
    let Some(fd) = this.get().descriptor(py) else {
        return PipeTransport::lost_descriptor(this);
    };
    let answer =
        buffers::read(data, |bytes| (descriptor::lend(fd, |fd| write_to(fd, bytes)), bytes.len()))?;
    match answer {
        (Ok(sent), length) if sent == length => Ok(()),
        (Ok(sent), _) => keep(this, data, sent),
        (Err(error), _) if is_full(error) => keep(this, data, 0),
        (Err(error), _) => failed(this, error),
    }
}

/// Whether anything can still be written; counts writes into a pipe that is gone.
fn may_write(this: &Bound<'_, PipeTransport>) -> PyResult<bool> {
    let py = this.py();
    let (gone, lost) = this.get().state.with(py, |state| {
        let (gone, lost) = (state.lost > 0 || state.closing, state.lost);
        state.lost = state.lost.saturating_add(u32::from(gone));
        (gone, lost)
    });
    if gone && lost >= LOG_THRESHOLD {
        imports(py).logger.bind(py).call_method1(
            intern!(py, "warning"),
            ("pipe closed by peer or os.write(pipe, data) raised exception.",),
        )?;
    }
    Ok(!gone)
}

fn keep(this: &Bound<'_, PipeTransport>, data: &Bound<'_, PyAny>, sent: usize) -> PyResult<()> {
    let py = this.py();
    let Some(rest) = outgoing::rest(data, sent)? else { return Ok(()) };
    this.get().state.with(py, |state| state.buffer.push(rest));
    wait_for_room(this)
}

/// Asks the kernel to say when the pipe takes more, and the protocol to slow down.
fn wait_for_room(this: &Bound<'_, PipeTransport>) -> PyResult<()> {
    if let Err(error) = PipeTransport::rearm(this) {
        return PipeTransport::fatal(this, error, WRITE_ERROR);
    }
    maybe_pause(this)
}

/// Above the high mark the protocol is asked to stop, once.
pub fn maybe_pause(this: &Bound<'_, PipeTransport>) -> PyResult<()> {
    let py = this.py();
    if !this.get().state.with(py, |state| state.flow.must_pause(state.buffer.len())) {
        return Ok(());
    }
    let protocol =
        this.get().state.with(py, |state| state.protocol.as_ref().map(|it| it.clone_ref(py)));
    let Some(protocol) = protocol else { return Ok(()) };
    PipeTransport::reported(this, protocol.pause_writing(py), "protocol.pause_writing() failed")
}

/// `transport.writelines`: everything goes through the buffer and leaves in one system call.
pub fn writelines(this: &Bound<'_, PipeTransport>, list: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = this.py();
    let pieces = outgoing::pieces(list)?;
    if pieces.is_empty() || !may_write(this)? {
        return Ok(());
    }
    let was_empty = this.get().state.with(py, |state| {
        let was_empty = state.buffer.is_empty();
        pieces.into_iter().for_each(|piece| state.buffer.push(piece));
        was_empty
    });
    if was_empty && let Err(error) = flush(this) {
        return failed(this, error);
    }
    if this.get().state.with(py, |state| state.buffer.is_empty()) {
        return Ok(());
    }
    wait_for_room(this)
}

/// Sends buffered bytes until the pipe is full or nothing is left.
fn flush(this: &Bound<'_, PipeTransport>) -> Result<(), Errno> {
    let py = this.py();
    let Some(fd) = this.get().descriptor(py) else { return Err(Errno::BADF) };
    let answer = this.get().state.with(py, |state| {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let count = state.buffer.slices(&mut slices);
        descriptor::lend(fd, |fd| writev(fd, &slices[..count]))
    });
    match answer {
        Ok(sent) => {
            this.get().state.with(py, |state| state.buffer.advance(sent));
            Ok(())
        }
        Err(error) if is_full(error) => Ok(()),
        Err(error) => Err(error),
    }
}

fn failed(this: &Bound<'_, PipeTransport>, error: Errno) -> PyResult<()> {
    this.get().state.with(this.py(), |state| state.lost = state.lost.saturating_add(1));
    PipeTransport::fatal(this, errors::from_errno(error), WRITE_ERROR)
}

/// The pipe takes bytes again.
pub fn ready(this: &Bound<'_, PipeTransport>) -> PyResult<()> {
    let py = this.py();
    if let Err(error) = flush(this) {
        return failed(this, error);
    }
    if this.get().state.with(py, |state| state.flow.may_resume(state.buffer.len())) {
        let told = this.get().in_context(py, |protocol| protocol.resume_writing(py));
        PipeTransport::reported(this, told, "protocol.resume_writing() failed")?;
    }
    let (empty, closing, ended) =
        this.get().state.with(py, |state| (state.buffer.is_empty(), state.closing, state.ended));
    if !empty || ended {
        return Ok(());
    }
    if closing { PipeTransport::queue_end(this) } else { PipeTransport::rearm(this) }
}

/// Nobody reads any more: what is unsent is lost, and the protocol is told so.
pub fn reader_gone(this: &Bound<'_, PipeTransport>) -> PyResult<()> {
    let py = this.py();
    PipeTransport::note(this, "info", "%r was closed by peer")?;
    let unsent = this.get().state.with(py, |state| !state.buffer.is_empty());
    let failure = unsent.then(|| PyBrokenPipeError::new_err(()).into_value(py).into_any());
    PipeTransport::force_close(this, failure)
}

/// `transport.write_eof`, and `close`: what is buffered is sent, then the pipe is closed.
pub fn finish(this: &Bound<'_, PipeTransport>) -> PyResult<()> {
    let flushed = this.get().state.with(this.py(), |state| {
        let was_closing = std::mem::replace(&mut state.closing, true);
        !was_closing && state.buffer.is_empty()
    });
    if flushed { PipeTransport::queue_end(this) } else { Ok(()) }
}
