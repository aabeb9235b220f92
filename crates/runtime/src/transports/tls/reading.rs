//! From below to the program: what was received is decrypted and handed out.
//!
//! A plain protocol gets one exact `bytes` for all that came together, decrypted where it stands;
//! a buffered protocol's own buffer is decrypted into. OpenSSL is asked only while a record is
//! complete: its answer that none is, an exception, would cost more than a microsecond each time.

use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::TlsProtocol;
use super::records::{Records, Stop};
use super::state::{Phase, Told};
use super::writing;
use crate::cpython::buffers;
use crate::event_loop::turn::is_exit;
use crate::protocols::Protocol;

impl TlsProtocol {
    /// Takes what was received; [`TlsProtocol::on_fed`] must follow, and is given the answer: what
    /// could be decrypted at once. Tells the program nothing.
    pub fn feed<'py>(this: &Bound<'py, Self>, bytes: &[u8]) -> PyResult<Option<Decrypted<'py>>> {
        let py = this.py();
        let (records, at_once) = this.get().state.with(py, |state| {
            let plain = state.protocol.as_ref().is_some_and(|protocol| !protocol.is_buffered());
            let open = state.phase == Phase::Wrapped && !state.reading_paused;
            (state.records.clone(), plain && open && bytes.len() > PORTION)
        });
        let Some(records) = records else { return Ok(None) };
        if at_once && records.native().is_some() {
            return decrypt_portions(this, &records, bytes).map(Some);
        }
        this.get().state.with(py, |state| state.framing.feed(bytes));
        records.incoming.write(py, bytes).map(|()| None)
    }

    /// Something was received, and perhaps decrypted.
    pub fn on_fed(this: &Bound<'_, Self>, decrypted: Option<Decrypted<'_>>) -> PyResult<()> {
        if decrypted.is_some() {
            return read_this(this, decrypted);
        }
        match this.get().phase(this.py()) {
            Phase::Unwrapped => Ok(()),
            Phase::Handshake => TlsProtocol::do_handshake(this),
            Phase::Wrapped => read(this),
            Phase::Flushing => TlsProtocol::do_flush(this),
            Phase::Shutdown => TlsProtocol::do_shutdown(this),
        }
    }

    /// Both at once, for transports that are not ours.
    pub fn data_received(this: &Bound<'_, Self>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let fed = buffers::read(data, |bytes| TlsProtocol::feed(this, bytes))?;
        TlsProtocol::on_fed(this, fed?)
    }

    /// `transport.resume_reading`: what waits is handed out soon.
    pub(super) fn resume_reading(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let was =
            this.get().state.with(py, |state| std::mem::replace(&mut state.reading_paused, false));
        if was { TlsProtocol::call_soon(this, intern!(py, "_read_on")) } else { Ok(()) }
    }

    /// What `resume_reading` scheduled.
    pub(super) fn read_on(this: &Bound<'_, Self>) -> PyResult<()> {
        match this.get().phase(this.py()) {
            Phase::Unwrapped | Phase::Handshake => Ok(()),
            _ => TlsProtocol::on_fed(this, None),
        }
    }

    /// `eof_received` of the program's protocol, once.
    pub(super) fn tell_eof(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let protocol = this.get().state.with(py, |state| {
            if state.told != Told::Made {
                return None;
            }
            state.told = Told::Eof;
            state.protocol.as_ref().map(|protocol| protocol.clone_ref(py))
        });
        let Some(protocol) = protocol else { return Ok(()) };
        match protocol.eof_received(py) {
            Ok(false) => Ok(()),
            Ok(true) => {
                let message = "returning true from eof_received() has no effect when using ssl";
                this.get().log(py, "warning", (message,))
            }
            Err(error) if is_exit(py, &error) => Err(error),
            Err(error) => TlsProtocol::fatal(this, error, "Error calling eof_received()"),
        }
    }

    /// Below the layer reading pauses while too much is not decrypted
    /// (`_control_ssl_reading`).
    pub(super) fn control_receiving(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let (Some(records), Some(below)) = (this.get().records(py), this.get().below(py)) else {
            return Ok(());
        };
        let size = records.incoming.pending(py)?;
        let change = this.get().state.with(py, |state| {
            if size >= state.reading.high && !state.receiving_paused {
                state.receiving_paused = true;
                Some(false)
            } else if size <= state.reading.low && state.receiving_paused {
                state.receiving_paused = false;
                Some(true)
            } else {
                None
            }
        });
        change.map_or(Ok(()), |reading| below.set_reading(py, reading))
    }
}

/// `_do_read`: hands out what is there and sends what that led to.
pub fn read(this: &Bound<'_, TlsProtocol>) -> PyResult<()> {
    read_this(this, None)
}

/// The same with what was decrypted already.
fn read_this(this: &Bound<'_, TlsProtocol>, decrypted: Option<Decrypted<'_>>) -> PyResult<()> {
    let py = this.py();
    if !matches!(this.get().phase(py), Phase::Wrapped | Phase::Flushing) {
        return Ok(());
    }
    match read_and_answer(this, decrypted) {
        Err(error) if error.is_instance_of::<PyException>(py) => {
            TlsProtocol::fatal(this, error, "Fatal error on SSL protocol")
        }
        other => other,
    }
}

fn read_and_answer(
    this: &Bound<'_, TlsProtocol>,
    decrypted: Option<Decrypted<'_>>,
) -> PyResult<()> {
    let py = this.py();
    if !this.get().state.with(py, |state| state.reading_paused) {
        let corked = writing::cork(this);
        let handed_out = hand_out(this, decrypted);
        writing::uncork(this, corked);
        handed_out?;
        writing::flush(this)?;
    }
    TlsProtocol::control_receiving(this)
}

/// How many bytes OpenSSL can decrypt now, at most: of complete records, and what it holds.
fn available(this: &Bound<'_, TlsProtocol>, records: &Records) -> PyResult<usize> {
    let py = this.py();
    let (unfinished, holds) =
        this.get().state.with(py, |state| (state.framing.unfinished().unwrap_or(0), state.holds));
    let complete = records.incoming.pending(py)?.saturating_sub(unfinished);
    Ok(complete + if holds { records.held(py)? } else { 0 })
}

/// Whether the stream has ended and the program, which has not closed it, has yet to take what
/// came before: it paused, or lent too small a buffer. asyncio loses that.
pub(super) fn waits_for_room(this: &Bound<'_, TlsProtocol>) -> PyResult<bool> {
    let py = this.py();
    let ended =
        this.get().state.with(py, |state| state.phase == Phase::Flushing && state.eof_received);
    if !ended || this.get().transport(py).is_none_or(|it| it.get().is_closed(py)) {
        return Ok(false);
    }
    let Some(records) = this.get().records(py) else { return Ok(false) };
    Ok(records.native().is_some() && available(this, &records)? > 0)
}

fn hand_out(this: &Bound<'_, TlsProtocol>, decrypted: Option<Decrypted<'_>>) -> PyResult<()> {
    let py = this.py();
    let (Some(records), Some(protocol)) = (this.get().records(py), this.get().protocol(py)) else {
        return Ok(());
    };
    if decrypted.is_none() && records.native().is_some() && available(this, &records)? == 0 {
        return Ok(());
    }
    let (stop, failure) = if protocol.is_buffered() {
        into_protocol(this, &records, &protocol)?
    } else {
        let (data, stop, failure) = match decrypted {
            Some(decrypted) => decrypted,
            None => decrypt(this, &records)?,
        };
        if !data.as_bytes().is_empty() {
            protocol.data_received(data.as_any())?;
        }
        (stop, failure)
    };
    if let Some(error) = failure {
        return Err(error);
    }
    if stop == Stop::Goodbye {
        TlsProtocol::tell_eof(this)?;
        TlsProtocol::start_shutdown(this)?;
    }
    Ok(())
}

/// Plain bytes, why they are not more, and the error if that is why.
pub type Decrypted<'py> = (Bound<'py, PyBytes>, Stop, Option<PyErr>);

/// What is received is given to OpenSSL in portions: its buffer then stays this small, for ever,
/// and in the processor's cache.
const PORTION: usize = 32 * 1024;

/// Receives and decrypts portion by portion, into one `bytes`.
fn decrypt_portions<'py>(
    this: &Bound<'py, TlsProtocol>,
    records: &Records,
    bytes: &[u8],
) -> PyResult<Decrypted<'py>> {
    let py = this.py();
    let Some(native) = records.native() else { return records.read_custom(py) };
    // Records that are complete are longer than what is in them, but one may be half in OpenSSL.
    let room = available(this, records)? + records.incoming.pending(py)? + bytes.len();
    let (data, outcome) = buffers::build(py, room, |space| -> PyResult<_> {
        let (mut stop, mut failure) = (Stop::Starved, None);
        for portion in bytes.chunks(PORTION) {
            this.get().state.with(py, |state| state.framing.feed(portion));
            records.incoming.write(py, portion)?;
            if stop == Stop::Starved && failure.is_none() && available(this, records)? > 0 {
                let more = || Ok(available(this, records)? > 0);
                (stop, failure) = Records::fill(native, py, space, more);
            }
        }
        Ok((stop, failure))
    })?;
    let (stop, failure) = outcome?;
    if stop == Stop::Full {
        this.get().state.with(py, |state| state.holds = true);
        TlsProtocol::call_soon(this, intern!(py, "_read_on"))?;
    }
    Ok((data, stop, failure))
}

/// Everything that is complete, as one `bytes`.
fn decrypt<'py>(this: &Bound<'py, TlsProtocol>, records: &Records) -> PyResult<Decrypted<'py>> {
    let py = this.py();
    let Some(native) = records.native() else { return records.read_custom(py) };
    let mut before: Vec<Bound<'py, PyBytes>> = Vec::new();
    loop {
        let room = available(this, records)?;
        let (bytes, (stop, failure)) = buffers::build(py, room, |space| {
            Records::fill(native, py, space, || Ok(available(this, records)? > 0))
        })?;
        let full = stop == Stop::Full;
        this.get().state.with(py, |state| state.holds = full);
        if full && available(this, records)? > 0 {
            before.push(bytes);
            continue;
        }
        if before.is_empty() {
            return Ok((bytes, stop, failure));
        }
        before.push(bytes);
        let whole = PyBytes::new(py, b"").call_method1(intern!(py, "join"), (before,))?;
        return Ok((whole.cast_into::<PyBytes>()?, stop, failure));
    }
}

/// Into a buffer of the protocol's own; what does not fit follows in the next turn.
fn into_protocol(
    this: &Bound<'_, TlsProtocol>,
    records: &Records,
    protocol: &Protocol,
) -> PyResult<(Stop, Option<PyErr>)> {
    let py = this.py();
    let hint = records.incoming.pending(py)?;
    let buffer = protocol.get_buffer(py, isize::try_from(hint).unwrap_or(isize::MAX))?;
    if buffer.len()? == 0 {
        return Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer"));
    }
    let (filled, stop, failure) = match records.native() {
        None => records.read_custom_into(&buffer)?,
        Some(native) => buffers::fill(&buffer, |space| {
            let (stop, failure) =
                Records::fill(native, py, space, || Ok(available(this, records)? > 0));
            (space.filled(), stop, failure)
        })?,
    };
    let full = stop == Stop::Full;
    this.get().state.with(py, |state| state.holds = full);
    if full {
        TlsProtocol::call_soon(this, intern!(py, "_read_on"))?;
    }
    if filled > 0 {
        protocol.buffer_updated(py, filled)?;
    }
    Ok((stop, failure))
}
