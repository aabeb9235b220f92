//! The handshake: it begins when the transport below is connected, is limited in time, and ends
//! with `connection_made` or with an error that whoever waits is told.

use pyo3::exceptions::{PyConnectionAbortedError, PyConnectionResetError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::TlsProtocol;
use super::below::Below;
use super::reading;
use super::records::is_again;
use super::state::{Phase, Told, Waiter};
use super::writing;
use crate::cpython::imports::{imports, tls_imports};
use crate::event_loop::report;

impl TlsProtocol {
    /// The transport below is connected: the handshake begins.
    pub fn connection_made(this: &Bound<'_, Self>, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = this.py();
        let below = Below::new(transport);
        let old = this.get().state.with(py, |state| {
            state.phase = Phase::Handshake;
            state.below.replace(below)
        });
        drop(old);
        let Some(home) = this.get().home(py) else { return Ok(()) };
        if home.get().is_debug(py) {
            this.get().log(py, "debug", ("%r starts SSL handshake", this))?;
            let began: f64 = home.call_method0(intern!(py, "time"))?.extract()?;
            this.get().state.with(py, |state| state.began = Some(began));
        }
        let timeout = this.get().state.with(py, |state| {
            state.settings.as_ref().map(|settings| settings.handshake_timeout.clone_ref(py))
        });
        let check = this.getattr(intern!(py, "_check_handshake_timeout"))?;
        let timer = home.call_method1(intern!(py, "call_later"), (timeout, check))?.unbind();
        this.get().state.with(py, |state| state.handshake_timer = Some(timer));
        TlsProtocol::do_handshake(this)
    }

    /// One more step of the handshake.
    pub(super) fn do_handshake(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let Some(records) = this.get().records(py) else { return Ok(()) };
        match records.do_handshake(py) {
            Ok(()) => TlsProtocol::handshake_over(this, None),
            Err(error) if is_again(py, &error)? => writing::send(this),
            Err(error) if error.is_instance(py, tls_imports(py)?.ssl_error.bind(py)) => {
                TlsProtocol::handshake_over(this, Some(error))
            }
            Err(error) => Err(error),
        }
    }

    /// The end of the stream came in the middle of the handshake.
    pub(super) fn handshake_cut(this: &Bound<'_, Self>) -> PyResult<()> {
        TlsProtocol::handshake_over(this, Some(PyConnectionResetError::new_err(())))
    }

    /// `_on_handshake_complete`
    fn handshake_over(this: &Bound<'_, Self>, failure: Option<PyErr>) -> PyResult<()> {
        let py = this.py();
        TlsProtocol::stop_handshake_timer(this)?;
        let Some(records) = this.get().records(py) else { return Ok(()) };
        let outcome = match failure {
            Some(error) => Err(error),
            None => {
                this.get().state.with(py, |state| state.phase = Phase::Wrapped);
                records.object(py).call_method0(intern!(py, "getpeercert"))
            }
        };
        let certificate = match outcome {
            Ok(certificate) => (!certificate.is_none()).then(|| certificate.unbind()),
            Err(error) if !error.is_instance_of::<pyo3::exceptions::PyException>(py) => {
                return Err(error);
            }
            Err(error) => return TlsProtocol::handshake_failed(this, error),
        };
        let (began, first) = this.get().state.with(py, |state| {
            state.peer_certificate = certificate;
            state.handshake_is_over = true;
            let first = state.told == Told::Nothing;
            if first {
                state.told = Told::Made;
            }
            (state.began.take(), first)
        });
        if let (Some(began), Some(home)) = (began, this.get().home(py)) {
            let now: f64 = home.call_method0(intern!(py, "time"))?.extract()?;
            let milliseconds = (now - began) * 1e3;
            let message = ("%r: SSL handshake took %.1f ms", this, milliseconds);
            this.get().log(py, "debug", message)?;
        }
        if first && let Some(protocol) = this.get().protocol(py) {
            let transport = this.get().transport(py);
            let corked = writing::cork(this);
            let made = match transport {
                Some(transport) => protocol.connection_made(transport.bind(py).as_any()),
                None => Ok(()),
            };
            writing::uncork(this, corked);
            made?;
        }
        TlsProtocol::wake_waiter(this, None)?;
        reading::read(this)
    }

    fn handshake_failed(this: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let py = this.py();
        this.get().state.with(py, |state| state.phase = Phase::Unwrapped);
        let refused = error.is_instance(py, tls_imports(py)?.certificate_error.bind(py));
        let message = if refused {
            "SSL handshake failed on verifying the certificate"
        } else {
            "SSL handshake failed"
        };
        TlsProtocol::fatal(this, error.clone_ref(py), message)?;
        TlsProtocol::wake_waiter(this, Some(error))
    }

    /// The time for the handshake is over.
    pub(super) fn check_handshake_timeout(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let timeout = this.get().state.with(py, |state| {
            let waits = state.phase == Phase::Handshake;
            let settings = state.settings.as_ref().filter(|_| waits);
            settings.map(|settings| settings.handshake_timeout.clone_ref(py))
        });
        let Some(timeout) = timeout else { return Ok(()) };
        let error = PyConnectionAbortedError::new_err(format!(
            "SSL handshake is taking longer than {} seconds: aborting the connection",
            timeout.bind(py).str()?.to_string_lossy(),
        ));
        TlsProtocol::fatal(this, error, "Fatal error on transport")
    }

    pub(super) fn stop_handshake_timer(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        match this.get().state.with(py, |state| state.handshake_timer.take()) {
            Some(timer) => timer.bind(py).call_method0(intern!(py, "cancel")).map(drop),
            None => Ok(()),
        }
    }

    /// Tells whoever waits for the handshake, once.
    pub(super) fn wake_waiter(this: &Bound<'_, Self>, failure: Option<PyErr>) -> PyResult<()> {
        let py = this.py();
        let waiter =
            this.get().state.with(py, |state| std::mem::replace(&mut state.waiter, Waiter::Nobody));
        match (waiter, failure) {
            (Waiter::Nobody, _) | (Waiter::Server, None) => Ok(()),
            (Waiter::Future(waiter), failure) => {
                let waiter = waiter.bind(py);
                if waiter.call_method0(intern!(py, "cancelled"))?.is_truthy()? {
                    return Ok(());
                }
                match failure {
                    Some(error) => {
                        waiter.call_method1(intern!(py, "set_exception"), (error.into_value(py),))
                    }
                    None => waiter.call_method1(intern!(py, "set_result"), (py.None(),)),
                }
                .map(drop)
            }
            (Waiter::Server, Some(error)) => TlsProtocol::client_refused(this, error),
        }
    }

    /// A peer that fails the handshake is its own affair: only debug mode tells of it.
    fn client_refused(this: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        let py = this.py();
        let Some(home) = this.get().home(py).filter(|home| home.get().is_debug(py)) else {
            return Ok(());
        };
        let (protocol, transport) = (this.get().protocol(py), this.get().transport(py));
        let details = PyDict::new(py);
        details.set_item("message", "Error on transport creation for incoming connection")?;
        details.set_item("exception", error.into_value(py))?;
        if let Some(protocol) = protocol {
            details.set_item("protocol", protocol.object(py))?;
        }
        if let Some(transport) = transport {
            details.set_item("transport", transport)?;
        }
        report::call_exception_handler(home.as_any(), &details)
    }

    /// `asyncio.log.logger.debug(...)` or another level.
    pub(super) fn log<'py>(
        &self,
        py: Python<'py>,
        level: &str,
        message: impl pyo3::call::PyCallArgs<'py>,
    ) -> PyResult<()> {
        imports(py).logger.bind(py).call_method1(level, message).map(drop)
    }

    /// `call_exception_handler`, about this layer.
    pub(super) fn tell(
        this: &Bound<'_, Self>,
        error: PyErr,
        message: &str,
        transport: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let py = this.py();
        let Some(home) = this.get().home(py) else { return Ok(()) };
        let details = PyDict::new(py);
        details.set_item("message", message)?;
        details.set_item("exception", error.into_value(py))?;
        details.set_item("transport", transport)?;
        details.set_item("protocol", this)?;
        report::call_exception_handler(home.as_any(), &details)
    }
}
