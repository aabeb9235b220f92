//! From the program to below: what is written is encrypted at once and sent in one piece.
//!
//! While the protocol is being told of something, what it writes is encrypted and kept: all of it
//! leaves in one system call when the protocol returns.

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use super::TlsProtocol;
use super::records::{Records, is_again};
use super::state::Phase;
use crate::cpython::buffers;
use crate::event_loop::turn::is_exit;
use crate::transports::outgoing::{self, LOG_THRESHOLD};

/// So much is not kept back: it is sent while the protocol still runs.
const LARGE: usize = 64 * 1024;

/// Up to here pieces of `writelines` are joined: a record each would cost more than the copy.
const JOINED: usize = 64 * 1024;

/// `transport.write`, of what was checked to be bytes.
pub fn write(this: &Bound<'_, TlsProtocol>, data: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = this.py();
    if !may_write(this)? {
        return Ok(());
    }
    let outcome = match this.get().ready_records(py) {
        None => put_off(this, data),
        Some(records) => encrypt(this, &records, data).and_then(|()| sent_or_corked(this)),
    };
    guard(this, outcome)
}

/// `transport.writelines`
pub fn writelines(this: &Bound<'_, TlsProtocol>, list: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = this.py();
    let mut pieces = outgoing::pieces(list)?;
    if !may_write(this)? {
        return Ok(());
    }
    if pieces.len() > 1 && pieces.iter().map(|piece| piece.len()).sum::<usize>() <= JOINED {
        let joined: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        pieces = vec![PyBackedBytes::from(PyBytes::new(py, &joined))];
    }
    this.get().state.with(py, |state| {
        pieces.into_iter().for_each(|piece| state.backlog.push(piece));
    });
    let outcome = if this.get().phase(py) == Phase::Wrapped {
        encrypt_backlog(this).and_then(|()| sent_or_corked(this))
    } else {
        Ok(())
    };
    guard(this, outcome)
}

fn guard(this: &Bound<'_, TlsProtocol>, outcome: PyResult<()>) -> PyResult<()> {
    match outcome {
        Err(error) if error.is_instance_of::<PyException>(this.py()) => {
            TlsProtocol::fatal(this, error, "Fatal error on SSL protocol")
        }
        other => other,
    }
}

/// Whether anything can still be written; counts writes into a connection that ended.
fn may_write(this: &Bound<'_, TlsProtocol>) -> PyResult<bool> {
    let py = this.py();
    let lost = this.get().state.with(py, |state| {
        state.phase.is_ending().then(|| {
            let before = state.lost;
            state.lost = before.saturating_add(1);
            before
        })
    });
    match lost {
        None => Ok(true),
        Some(before) => {
            if before >= LOG_THRESHOLD {
                this.get().log(py, "warning", ("SSL connection is closed",))?;
            }
            Ok(false)
        }
    }
}

/// Keeps `data` until something else makes the layer write.
pub fn put_off(this: &Bound<'_, TlsProtocol>, data: &Bound<'_, PyAny>) -> PyResult<()> {
    outgoing::rest(data, 0).map(|rest| keep(this, rest))
}

fn keep(this: &Bound<'_, TlsProtocol>, rest: Option<PyBackedBytes>) {
    if let Some(rest) = rest {
        this.get().state.with(this.py(), |state| state.backlog.push(rest));
    }
}

/// Takes a record out of OpenSSL's buffer, which then stays as small as a record, and in the
/// processor's cache: ten connections with 100 KiB each in theirs would not fit there.
fn seal(this: &Bound<'_, TlsProtocol>, records: &Records) -> PyResult<()> {
    let py = this.py();
    let Some(record) = records.take_outgoing(py)? else { return Ok(()) };
    let record = PyBackedBytes::from(record);
    this.get().state.with(py, |state| {
        state.sealed_length += record.len();
        state.sealed.push(record);
    });
    Ok(())
}

/// Encrypts what OpenSSL takes; the rest waits until it has received something.
fn encrypt(
    this: &Bound<'_, TlsProtocol>,
    records: &Records,
    data: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let py = this.py();
    let mut written = 0;
    match records.write(data, &mut written, || seal(this, records)) {
        Ok(()) => Ok(()),
        Err(error) if is_again(py, &error)? => {
            keep(this, outgoing::rest(data, written)?);
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// The same for what waits already.
fn encrypt_backlog(this: &Bound<'_, TlsProtocol>) -> PyResult<()> {
    let py = this.py();
    let Some(records) = this.get().records(py) else { return Ok(()) };
    loop {
        let first = this
            .get()
            .state
            .with(py, |state| state.backlog.unsent().next().map(|bytes| PyBytes::new(py, bytes)));
        let Some(first) = first else { return Ok(()) };
        let mut written = 0;
        let outcome = records.write(first.as_any(), &mut written, || seal(this, &records));
        this.get().state.with(py, |state| state.backlog.advance(written));
        match outcome {
            Ok(()) => {}
            Err(error) if is_again(py, &error)? => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Sends, unless the protocol is in the middle of something.
fn sent_or_corked(this: &Bound<'_, TlsProtocol>) -> PyResult<()> {
    let py = this.py();
    if this.get().state.with(py, |state| state.corked) {
        let records = this.get().records(py);
        let sealed = this.get().state.with(py, |state| state.sealed_length);
        if sealed + records.map_or(Ok(0), |records| records.outgoing.pending(py))? < LARGE {
            return TlsProtocol::control_writing(this);
        }
    }
    send(this)
}

/// Begins to keep back what is written; says whether that was so already.
pub fn cork(this: &Bound<'_, TlsProtocol>) -> bool {
    this.get().state.with(this.py(), |state| std::mem::replace(&mut state.corked, true))
}

/// Ends it, unless somebody else began it. Whoever calls sends what was kept back.
pub fn uncork(this: &Bound<'_, TlsProtocol>, was: bool) {
    this.get().state.with(this.py(), |state| state.corked = was);
}

/// Encrypts what waits and sends all there is.
pub fn flush(this: &Bound<'_, TlsProtocol>) -> PyResult<()> {
    let py = this.py();
    if !this.get().state.with(py, |state| state.backlog.is_empty()) {
        encrypt_backlog(this)?;
    }
    send(this)
}

/// `_process_outgoing`: gives the transport below what is encrypted, unless it has had enough.
pub fn send(this: &Bound<'_, TlsProtocol>) -> PyResult<()> {
    if !this.get().state.with(this.py(), |state| state.sending_paused) {
        send_all(this)?;
    }
    TlsProtocol::control_writing(this)
}

/// The same whether it has had enough or not: nothing more will come.
pub fn send_all(this: &Bound<'_, TlsProtocol>) -> PyResult<()> {
    let py = this.py();
    let (Some(records), Some(below)) = (this.get().records(py), this.get().below(py)) else {
        return Ok(());
    };
    let mut pieces = this.get().state.with(py, |state| {
        state.sealed_length = 0;
        std::mem::take(&mut state.sealed)
    });
    match records.take_outgoing(py)? {
        Some(last) if pieces.is_empty() => below.write(&last),
        last => {
            pieces.extend(last.map(PyBackedBytes::from));
            if pieces.is_empty() { Ok(()) } else { below.write_pieces(py, pieces) }
        }
    }
}

impl TlsProtocol {
    /// The transport below has had enough.
    pub fn pause_writing(this: &Bound<'_, Self>) {
        this.get().state.with(this.py(), |state| state.sending_paused = true);
    }

    /// It takes more again.
    pub fn resume_writing(this: &Bound<'_, Self>) -> PyResult<()> {
        this.get().state.with(this.py(), |state| state.sending_paused = false);
        send(this)
    }

    /// Bytes written and not yet given to the transport below.
    pub(super) fn write_buffer_size(&self, py: Python<'_>) -> PyResult<usize> {
        let waiting = self.state.with(py, |state| state.backlog.len() + state.sealed_length);
        let encrypted = self.records(py).map_or(Ok(0), |records| records.outgoing.pending(py))?;
        Ok(waiting + encrypted)
    }

    /// `_control_app_writing`: from the high mark on the protocol pauses, down to the low one.
    pub(super) fn control_writing(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let size = this.get().write_buffer_size(py)?;
        let change = this.get().state.with(py, |state| {
            if size >= state.writing.high && !state.writing_paused {
                state.writing_paused = true;
                Some(true)
            } else if size <= state.writing.low && state.writing_paused {
                state.writing_paused = false;
                Some(false)
            } else {
                None
            }
        });
        let (Some(pause), Some(protocol)) = (change, this.get().protocol(py)) else {
            return Ok(());
        };
        let (outcome, message) = if pause {
            (protocol.pause_writing(py), "protocol.pause_writing() failed")
        } else {
            (protocol.resume_writing(py), "protocol.resume_writing() failed")
        };
        match outcome {
            Err(error) if is_exit(py, &error) => Err(error),
            Err(error) => {
                let transport = this.get().transport(py).map(|transport| transport.into_any());
                TlsProtocol::tell(this, error, message, transport)
            }
            Ok(()) => Ok(()),
        }
    }
}

/// Refuses what is not bytes, in asyncio's words; says whether there is anything to write.
pub fn check(data: &Bound<'_, PyAny>) -> PyResult<bool> {
    if outgoing::check_type(data).is_err() {
        let name = data.get_type().name()?;
        return Err(pyo3::exceptions::PyTypeError::new_err(format!(
            "data: expecting a bytes-like instance, got {name}"
        )));
    }
    buffers::read(data, |bytes| !bytes.is_empty())
}
