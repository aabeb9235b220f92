//! The end of a TLS connection: goodbyes, ends of the stream, errors.
//!
//! An orderly end hands out what was received, says goodbye, waits a limited time for the peer's
//! goodbye, and closes the transport below.

use pyo3::exceptions::{PyException, PyOSError, PyTimeoutError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::TlsProtocol;
use super::reading;
use super::records::is_again;
use super::state::{Phase, Told};
use super::writing;
use crate::cpython::imports::tls_imports;
use crate::errors;
use crate::transports::news;

impl TlsProtocol {
    /// Whether goodbyes are being said.
    pub fn is_leaving(&self, py: Python<'_>) -> bool {
        matches!(self.phase(py), Phase::Flushing | Phase::Shutdown)
    }

    /// `_start_shutdown`: the program closes, or the peer said goodbye.
    pub(super) fn start_shutdown(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let phase = this.get().phase(py);
        if phase.is_ending() {
            // Who closes does not want what waits to be handed out since the stream ended.
            let waits = phase == Phase::Flushing && this.get().state.with(py, |it| it.eof_received);
            return if waits { TlsProtocol::do_flush(this) } else { Ok(()) };
        }
        TlsProtocol::mark_closed(this);
        if phase == Phase::Handshake {
            return TlsProtocol::abort(this, None);
        }
        let (home, timeout) = this.get().state.with(py, |state| {
            state.phase = Phase::Flushing;
            let timeout = state.settings.as_ref().map(|it| it.shutdown_timeout.clone_ref(py));
            (state.home.as_ref().map(|home| home.clone_ref(py)), timeout)
        });
        let Some(home) = home else { return Ok(()) };
        let check = this.getattr(intern!(py, "_check_shutdown_timeout"))?;
        let timer = home.bind(py).call_method1(intern!(py, "call_later"), (timeout, check))?;
        this.get().state.with(py, |state| state.shutdown_timer = Some(timer.unbind()));
        TlsProtocol::do_flush(this)
    }

    /// The time for the peer's goodbye is over.
    pub(super) fn check_shutdown_timeout(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        if !matches!(this.get().phase(py), Phase::Flushing | Phase::Shutdown) {
            return Ok(());
        }
        let error = PyTimeoutError::new_err("SSL shutdown timed out");
        let reason = error.into_value(py).into_any();
        this.get().below(py).map_or(Ok(()), |below| below.force_close(py, Some(reason)))
    }

    pub(super) fn do_flush(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        reading::read(this)?;
        if reading::waits_for_room(this)? {
            return Ok(());
        }
        let goes_on = this.get().state.with(py, |state| {
            let flushing = state.phase == Phase::Flushing;
            if flushing {
                state.phase = Phase::Shutdown;
            }
            flushing
        });
        // Otherwise the protocol has aborted the connection.
        if goes_on { TlsProtocol::do_shutdown(this) } else { Ok(()) }
    }

    /// Says goodbye; over when the peer said it too, or will never say anything.
    pub(super) fn do_shutdown(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let Some(records) = this.get().records(py) else { return Ok(()) };
        if !this.get().state.with(py, |state| state.eof_received) {
            match records.unwrap(py) {
                Ok(()) => {}
                Err(error) if is_again(py, &error)? => return writing::send(this),
                Err(error) if error.is_instance(py, tls_imports(py)?.ssl_error.bind(py)) => {
                    TlsProtocol::stop_shutdown_timer(this)?;
                    return TlsProtocol::fatal(this, error, "Fatal error on transport");
                }
                Err(error) => return Err(error),
            }
        }
        writing::send_all(this)?;
        TlsProtocol::tell_eof(this)?;
        TlsProtocol::stop_shutdown_timer(this)?;
        let (Some(below), Some(home)) = (this.get().below(py), this.get().home(py)) else {
            return Ok(());
        };
        let close = below.object(py).getattr(intern!(py, "close"))?;
        home.call_method1(intern!(py, "call_soon"), (close,)).map(drop)
    }

    fn stop_shutdown_timer(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        match this.get().state.with(py, |state| state.shutdown_timer.take()) {
            Some(timer) => timer.bind(py).call_method0(intern!(py, "cancel")).map(drop),
            None => Ok(()),
        }
    }

    /// `_abort`: over at once.
    pub(super) fn abort(this: &Bound<'_, Self>, reason: Option<Py<PyAny>>) -> PyResult<()> {
        let py = this.py();
        // What the protocol has written is sent before it ends, as if it had not been kept back.
        if this.get().state.with(py, |state| state.corked && !state.sending_paused) {
            writing::send_all(this)?;
        }
        this.get().state.with(py, |state| state.phase = Phase::Unwrapped);
        this.get().below(py).map_or(Ok(()), |below| below.force_close(py, reason))
    }

    /// The stream below ends: true keeps it open, until what was received is handed out.
    pub fn eof_received(this: &Bound<'_, Self>) -> PyResult<bool> {
        let py = this.py();
        this.get().state.with(py, |state| state.eof_received = true);
        match TlsProtocol::on_eof(this) {
            Err(error) if error.is_instance_of::<PyException>(py) => {
                if let Some(below) = this.get().below(py) {
                    below.close(py)?;
                }
                Err(error)
            }
            other => other,
        }
    }

    fn on_eof(this: &Bound<'_, Self>) -> PyResult<bool> {
        let py = this.py();
        if this.get().is_debug(py) {
            this.get().log(py, "debug", ("%r received EOF", this))?;
        }
        match this.get().phase(py) {
            Phase::Unwrapped => {}
            Phase::Handshake => TlsProtocol::handshake_cut(this)?,
            Phase::Wrapped => {
                let paused = this.get().state.with(py, |state| {
                    state.phase = Phase::Flushing;
                    state.reading_paused
                });
                if paused {
                    return Ok(true);
                }
                TlsProtocol::do_flush(this)?;
                // Kept open until the protocol had room for all that came before the end.
                return Ok(this.get().phase(py) == Phase::Flushing);
            }
            Phase::Flushing => {
                writing::flush(this)?;
                this.get().state.with(py, |state| state.phase = Phase::Shutdown);
                TlsProtocol::do_shutdown(this)?;
            }
            Phase::Shutdown => TlsProtocol::do_shutdown(this)?,
        }
        Ok(false)
    }

    /// The transport below is gone.
    pub fn connection_lost(this: &Bound<'_, Self>, reason: Option<Py<PyAny>>) -> PyResult<()> {
        let py = this.py();
        TlsProtocol::mark_closed(this);
        if let Some(records) = this.get().records(py) {
            records.take_outgoing(py)?;
        }
        let (phase, gone) = this.get().state.with(py, |state| {
            state.lost = state.lost.saturating_add(1);
            let phase = std::mem::replace(&mut state.phase, Phase::Unwrapped);
            state.sealed_length = 0;
            let unsent = (std::mem::take(&mut state.backlog), std::mem::take(&mut state.sealed));
            (phase, (unsent, state.below.take(), state.transport.take()))
        });
        drop(gone);
        let protocol = this.get().state.with(py, |state| {
            let owed = phase != Phase::Handshake && matches!(state.told, Told::Made | Told::Eof);
            if owed {
                state.told = Told::Lost;
            }
            state.protocol.as_ref().filter(|_| owed).map(|protocol| protocol.clone_ref(py))
        });
        if let (Some(protocol), Some(home)) = (protocol, this.get().home(py)) {
            let told = protocol.object(py).getattr(intern!(py, "connection_lost"))?;
            let reason = reason.as_ref().map(|reason| reason.clone_ref(py));
            home.call_method1(intern!(py, "call_soon"), (told, reason))?;
        }
        let failure = reason.map(|reason| PyErr::from_value(reason.into_bound(py)));
        TlsProtocol::wake_waiter(this, failure)?;
        drop(this.get().state.with(py, |state| state.protocol.take()));
        TlsProtocol::stop_shutdown_timer(this)?;
        TlsProtocol::stop_handshake_timer(this)
    }

    /// The program's transport is closed, whoever closed it.
    fn mark_closed(this: &Bound<'_, Self>) {
        if let Some(transport) = this.get().transport(this.py()) {
            transport.get().mark_closed(this.py());
        }
    }

    /// `_fatal_error`: closes, and tells the loop, except of an OSError, which is the peer's doing.
    pub(super) fn fatal(this: &Bound<'_, Self>, error: PyErr, message: &str) -> PyResult<()> {
        let py = this.py();
        let value = error.clone_ref(py).into_value(py).into_bound(py).into_any();
        let below = this.get().below(py);
        if let Some(below) = &below {
            below.force_close(py, Some(value.clone().unbind()))?;
        }
        if error.is_instance_of::<PyOSError>(py) {
            if !this.get().is_debug(py) {
                return Ok(());
            }
            return news::log(this.as_any(), &value, message);
        }
        if errors::is_cancelled(&value) {
            return Ok(());
        }
        let transport = below.map(|below| below.object(py).clone().unbind());
        TlsProtocol::tell(this, error, message, transport)
    }

    /// `loop.call_soon` of a method of this layer.
    pub(super) fn call_soon(this: &Bound<'_, Self>, method: &Bound<'_, PyString>) -> PyResult<()> {
        let py = this.py();
        let Some(home) = this.get().home(py) else { return Ok(()) };
        home.call_method1(intern!(py, "call_soon"), (this.getattr(method)?,)).map(drop)
    }
}
