//! Bytes from a pipe to the protocol: one `read` for each time the kernel reports, into the loop's
//! scratch buffer, and out of it a `bytes` of the exact size.

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustix::io::{Errno, read};

use super::PipeTransport;
use crate::cpython::descriptor;
use crate::errors;
use crate::event_loop::BaseEventLoop;

/// The pipe is readable.
pub fn ready(
    this: &Bound<'_, PipeTransport>,
    event_loop: &Bound<'_, BaseEventLoop>,
) -> PyResult<()> {
    let py = this.py();
    let Some(fd) = this.get().descriptor(py) else {
        return PipeTransport::lost_descriptor(this);
    };
    let mut scratch = event_loop.get().take_scratch(py);
    let answer = descriptor::lend(fd, |fd| read(fd, scratch.as_mut_slice()));
    let data = answer.map(|count| PyBytes::new(py, &scratch[..count]));
    event_loop.get().give_scratch(py, scratch);
    match data {
        Ok(data) if data.as_bytes().is_empty() => end_of_file(this),
        Ok(data) => {
            let told = this.get().in_context(py, |protocol| protocol.data_received(data.as_any()));
            PipeTransport::reported(this, told, "Exception in protocol.data_received()")
        }
        Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(error) => {
            let error = errors::from_errno(error);
            PipeTransport::fatal(this, error, "Fatal read error on pipe transport")
        }
    }
}

/// No writer is left: `eof_received`, then the end. A pipe has nothing else to stay open for.
fn end_of_file(this: &Bound<'_, PipeTransport>) -> PyResult<()> {
    let py = this.py();
    PipeTransport::note(this, "info", "%r was closed by peer")?;
    this.get().state.with(py, |state| state.closing = true);
    let told = this.get().in_context(py, |protocol| protocol.eof_received(py).map(drop));
    let told = PipeTransport::reported(this, told, "Exception in protocol.eof_received()");
    PipeTransport::force_close(this, None)?;
    told
}
