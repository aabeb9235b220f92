//! Bytes from the socket to the protocol: one `recv` for each time the kernel reports.
//!
//! A plain protocol gets an exact `bytes`. Small ones are copied out of the loop's scratch buffer;
//! after a large one the next is read into its own object, with room for a little more than the
//! last and made shorter: a copy of 100 KiB is a tenth of what such a message costs, and giving
//! each the maximum of room would cost an mmap and an munmap. A buffered protocol is read into
//! where it says. TLS, and a stream's reader, take from the scratch buffer themselves.

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::StreamTransport;
use crate::cpython::{buffers, descriptor};
use crate::errors;
use crate::event_loop::BaseEventLoop;
use crate::event_loop::sockets::SCRATCH;
use crate::event_loop::turn::is_exit;
use crate::protocols::Protocol;
use crate::streams::reader::StreamReader;
use crate::transports::tls::TlsProtocol;

const READ_ERROR: &str = "Fatal read error on socket transport";
const RECEIVE_ERROR: &str = "Fatal error: protocol.data_received() call failed.";

/// The socket is readable.
#[inline]
pub fn ready(
    this: &Bound<'_, StreamTransport>,
    event_loop: &Bound<'_, BaseEventLoop>,
) -> PyResult<()> {
    let py = this.py();
    let Some(fd) = this.get().descriptor(py) else {
        return StreamTransport::lost_descriptor(this);
    };
    let tls = match this.get().protocol_kind(py) {
        Kind::Plain { room: 0 } => None,
        Kind::Plain { room } => {
            return match into_bytes(this, fd, room as usize) {
                Ok(received) => deliver(this, received),
                Err(error) => guard(this, Err(error), READ_ERROR),
            };
        }
        Kind::Buffered => return into_protocol(this, fd),
        Kind::Reader { reader, room } => {
            return into_reader(this, event_loop, fd, reader.bind(py), room);
        }
        Kind::Tls(tls) => Some(tls),
    };
    let mut scratch = event_loop.get().take_scratch(py);
    let answer = descriptor::lend(fd, |fd| recv(fd, scratch.as_mut_slice(), RecvFlags::empty()));
    if let (Some(tls), Ok((count, _))) = (&tls, answer)
        && count > 0
    {
        let fed = TlsProtocol::feed(tls.bind(py), &scratch[..count]);
        event_loop.get().give_scratch(py, scratch);
        let told = fed
            .and_then(|fed| this.get().in_context(py, |_| TlsProtocol::on_fed(tls.bind(py), fed)));
        return guard(this, told, "Fatal error: protocol.buffer_updated() call failed.");
    }
    let data = answer.map(|(count, _)| PyBytes::new(py, &scratch[..count]));
    event_loop.get().give_scratch(py, scratch);
    if let Ok(data) = &data
        && data.as_bytes().len() >= LARGE
    {
        this.get().state.with(py, |state| state.room = room_after(data.as_bytes().len()));
    }
    deliver(this, data)
}

/// From this size on a message is worth a `bytes` object of a guessed size.
const LARGE: usize = 32 * 1024;
const STEP: usize = 16 * 1024;

/// A little more than the last message had: what fills its room to the last byte may be the
/// beginning of more.
fn room_after(count: usize) -> u32 {
    (count / STEP + 1).saturating_mul(STEP).min(SCRATCH) as u32
}

/// One `recv` straight into the object that the protocol is given.
fn into_bytes<'py>(
    this: &Bound<'py, StreamTransport>,
    fd: i32,
    room: usize,
) -> PyResult<Result<Bound<'py, PyBytes>, Errno>> {
    let py = this.py();
    let (data, answer) = buffers::build(py, room, |space| {
        space.write_with(|memory| {
            descriptor::lend(fd, |fd| recv(fd, memory, RecvFlags::empty()))
                .map(|((received, _), _)| received)
        })
    })?;
    if let Err(error) = answer {
        return Ok(Err(error));
    }
    let count = data.as_bytes().len();
    let next = match count {
        _ if count == room => room_after(room * 2),
        _ if count < room / 2 => 0,
        _ => room as u32,
    };
    this.get().state.with(py, |state| state.room = next);
    Ok(Ok(data))
}

fn deliver(
    this: &Bound<'_, StreamTransport>,
    received: Result<Bound<'_, PyBytes>, Errno>,
) -> PyResult<()> {
    let py = this.py();
    match received {
        Ok(data) if data.as_bytes().is_empty() => end_of_file(this),
        Ok(data) => {
            let told = this.get().in_context(py, |protocol| protocol.data_received(data.as_any()));
            guard(this, told, RECEIVE_ERROR)
        }
        Err(error) => refused(this, error),
    }
}

/// How a protocol wants its bytes.
enum Kind {
    Plain { room: u32 },
    Buffered,
    Tls(Py<TlsProtocol>),
    Reader { reader: Py<StreamReader>, room: usize },
}

impl StreamTransport {
    #[inline]
    fn protocol_kind(&self, py: Python<'_>) -> Kind {
        self.state.with(py, |state| match &state.protocol {
            Some(Protocol::Tls(tls)) => Kind::Tls(tls.clone_ref(py)),
            Some(Protocol::Streams(streams)) => match streams.get().native_reader(py) {
                Some(reader) if !reader.get().is_shown(py) => {
                    Kind::Reader { reader, room: state.room as usize }
                }
                _ => Kind::Plain { room: state.room },
            },
            Some(Protocol::Python(protocol)) if protocol.is_buffered() => Kind::Buffered,
            _ => Kind::Plain { room: state.room },
        })
    }
}

fn refused(this: &Bound<'_, StreamTransport>, error: Errno) -> PyResult<()> {
    if error == Errno::AGAIN || error == Errno::INTR {
        return Ok(());
    }
    StreamTransport::fatal(this, errors::from_errno(error), READ_ERROR)
}

/// A protocol method raised: the connection ends, unless the program itself is to end.
fn guard(this: &Bound<'_, StreamTransport>, outcome: PyResult<()>, message: &str) -> PyResult<()> {
    match outcome {
        Ok(()) => Ok(()),
        Err(error) if is_exit(this.py(), &error) => Err(error),
        Err(error) => StreamTransport::fatal(this, error, message),
    }
}

fn into_protocol(this: &Bound<'_, StreamTransport>, fd: i32) -> PyResult<()> {
    let py = this.py();
    let lent = this.get().in_context(py, |protocol| {
        let buffer = protocol.get_buffer(py, -1)?;
        if buffer.len()? == 0 {
            return Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer"));
        }
        Ok(buffer)
    });
    let buffer = match lent {
        Ok(buffer) => buffer,
        Err(error) => {
            let message = "Fatal error: protocol.get_buffer() call failed.";
            return guard(this, Err(error), message);
        }
    };
    if this.get().state.with(py, |state| state.lost > 0) {
        return Ok(());
    }
    let answer = buffers::write(&buffer, |bytes| {
        descriptor::lend(fd, |fd| recv(fd, bytes, RecvFlags::empty()))
    });
    match answer {
        Err(error) => guard(this, Err(error), READ_ERROR),
        Ok(Err(error)) => refused(this, error),
        Ok(Ok((0, _))) => end_of_file(this),
        Ok(Ok((count, _))) => {
            let told = this.get().in_context(py, |protocol| protocol.buffer_updated(py, count));
            guard(this, told, "Fatal error: protocol.buffer_updated() call failed.")
        }
    }
}

/// Into the reader of a stream, as much as it has room for; no Python code runs for it.
fn into_reader(
    this: &Bound<'_, StreamTransport>,
    event_loop: &Bound<'_, BaseEventLoop>,
    fd: i32,
    reader: &Bound<'_, StreamReader>,
    after_large: usize,
) -> PyResult<()> {
    let py = this.py();
    let large = reader.get().receive(py, |room| {
        descriptor::lend(fd, |fd| recv(fd, room, RecvFlags::empty())).map(|(_, count)| count)
    });
    if let Some(answer) = large {
        return match answer {
            Ok(Ok(count)) => received(this, reader, count, Ok(())),
            Ok(Err(error)) => refused(this, error),
            Err(error) => guard(this, Err(error), READ_ERROR),
        };
    }
    let room = reader.get().room(py);
    if after_large > 0 && reader.get().is_drained(py) {
        return match into_bytes(this, fd, after_large.min(room))? {
            Ok(data) if data.as_bytes().is_empty() => end_of_file(this),
            Ok(data) => {
                let told = StreamReader::feed(reader, data.as_any());
                guard(this, told, RECEIVE_ERROR)
            }
            Err(error) => refused(this, error),
        };
    }
    let mut scratch = event_loop.get().take_scratch(py);
    let room = room.min(scratch.len());
    let answer = descriptor::lend(fd, |fd| recv(fd, &mut scratch[..room], RecvFlags::empty()));
    let kept = match answer {
        Ok((count, _)) if count > 0 => {
            if count >= LARGE {
                this.get().state.with(py, |state| state.room = room_after(count));
            }
            reader.get().keep(py, &scratch[..count])
        }
        _ => Ok(()),
    };
    event_loop.get().give_scratch(py, scratch);
    match answer {
        Ok((count, _)) => received(this, reader, count, kept),
        Err(error) => refused(this, error),
    }
}

fn received(
    this: &Bound<'_, StreamTransport>,
    reader: &Bound<'_, StreamReader>,
    count: usize,
    kept: PyResult<()>,
) -> PyResult<()> {
    if count == 0 {
        return end_of_file(this);
    }
    let told = kept.and_then(|()| StreamReader::on_fed(reader));
    guard(this, told, RECEIVE_ERROR)
}

/// The peer will send nothing more. The protocol decides whether we may go on sending.
fn end_of_file(this: &Bound<'_, StreamTransport>) -> PyResult<()> {
    let py = this.py();
    StreamTransport::note(this, "%r received EOF")?;
    match this.get().in_context(py, |protocol| protocol.eof_received(py)) {
        Ok(true) => {
            this.get().state.with(py, |state| state.eof_seen = true);
            this.get().rearm(py)
        }
        Ok(false) => StreamTransport::close_soon(this),
        Err(error) => guard(this, Err(error), "Fatal error: protocol.eof_received() call failed."),
    }
}
