//! Datagrams from the socket to the protocol: a bounded number for each time the kernel reports.
//!
//! Each becomes an exact `bytes`, copied out of the loop's scratch buffer. Never reads ahead: a
//! protocol that closes or pauses in `datagram_received` leaves the rest to the kernel.

use std::os::fd::RawFd;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use rustix::net::{RecvFlags, recvfrom};

use super::{DatagramTransport, peers};
use crate::cpython::{context, descriptor};
use crate::errors;
use crate::event_loop::BaseEventLoop;
use crate::event_loop::sockets::SCRATCH;
use crate::event_loop::turn::is_exit;
use crate::protocols::python::PythonProtocol;
use crate::transports::outgoing::is_full;

/// How many datagrams one readiness hands out before others get their turn.
const DATAGRAMS_PER_TURN: usize = 32;

/// What one attempt to receive came to.
enum Received<'py> {
    Datagram(Bound<'py, PyAny>, Py<PyAny>),
    Nothing,
    Refused(PyErr),
}

/// The socket is readable.
#[inline]
pub fn ready(
    this: &Bound<'_, DatagramTransport>,
    event_loop: &Bound<'_, BaseEventLoop>,
) -> PyResult<()> {
    let py = this.py();
    let context =
        this.get().state.with(py, |state| state.context.as_ref().map(|it| it.clone_ref(py)));
    let Some(context) = context else { return Ok(()) };
    context::run_in(context.bind(py), || receive_all(this, event_loop))?
}

fn receive_all(
    this: &Bound<'_, DatagramTransport>,
    event_loop: &Bound<'_, BaseEventLoop>,
) -> PyResult<()> {
    let py = this.py();
    for _ in 0..DATAGRAMS_PER_TURN {
        let next = this.get().state.with(py, |state| {
            let protocol = state.protocol.as_ref()?.clone_ref(py);
            (state.lost == 0 && state.wants_to_read()).then_some((protocol, state.family.is_some()))
        });
        let Some((protocol, is_native)) = next else { return Ok(()) };
        let Some(fd) = this.get().descriptor(py) else {
            return DatagramTransport::lost_descriptor(this);
        };
        let received = if is_native { natively(this, event_loop, fd) } else { by_python(this) };
        match received {
            Ok(Received::Datagram(data, from)) => hand_over(this, &protocol, &data, from)?,
            Ok(Received::Nothing) => return Ok(()),
            Ok(Received::Refused(error)) => {
                let told = protocol.error_received(error.into_value(py).bind(py));
                return DatagramTransport::reported(
                    this,
                    told,
                    "Exception in protocol.error_received()",
                );
            }
            Err(error) if is_exit(py, &error) => return Err(error),
            Err(error) => {
                let message = "Fatal read error on datagram transport";
                return DatagramTransport::fatal(this, error, message);
            }
        }
    }
    Ok(())
}

fn hand_over(
    this: &Bound<'_, DatagramTransport>,
    protocol: &PythonProtocol,
    data: &Bound<'_, PyAny>,
    from: Py<PyAny>,
) -> PyResult<()> {
    let told = protocol.datagram_received(data, from.bind(this.py()));
    DatagramTransport::reported(this, told, "Exception in protocol.datagram_received()")
}

#[inline]
fn natively<'py>(
    this: &Bound<'py, DatagramTransport>,
    event_loop: &Bound<'py, BaseEventLoop>,
    fd: RawFd,
) -> PyResult<Received<'py>> {
    let py = this.py();
    let mut scratch = event_loop.get().take_scratch(py);
    let answer =
        descriptor::lend(fd, |fd| recvfrom(fd, scratch.as_mut_slice(), RecvFlags::empty()));
    let answer = answer.map(|(count, _, from)| (PyBytes::new(py, &scratch[..count]), from));
    event_loop.get().give_scratch(py, scratch);
    match answer {
        Ok((data, from)) => {
            Ok(Received::Datagram(data.into_any(), peers::to_python(this.get(), py, from)?))
        }
        Err(error) if is_full(error) => Ok(Received::Nothing),
        Err(error) => Ok(Received::Refused(errors::from_errno(error))),
    }
}

/// A family whose addresses only `socket` itself can read.
fn by_python<'py>(this: &Bound<'py, DatagramTransport>) -> PyResult<Received<'py>> {
    let py = this.py();
    let socket = this.get().state.with(py, |state| state.socket.as_ref().map(|s| s.clone_ref(py)));
    let Some(socket) = socket else { return Ok(Received::Nothing) };
    match socket.bind(py).call_method1(intern!(py, "recvfrom"), (SCRATCH,)) {
        Ok(pair) => {
            let pair = pair.cast_into::<PyTuple>()?;
            Ok(Received::Datagram(pair.get_item(0)?, pair.get_item(1)?.unbind()))
        }
        Err(error) if errors::would_block(py, &error) => Ok(Received::Nothing),
        Err(error) if error.is_instance_of::<pyo3::exceptions::PyOSError>(py) => {
            Ok(Received::Refused(error))
        }
        Err(error) => Err(error),
    }
}
