//! A child process, until it is reaped: the loop is told by a pidfd that it exited.
//!
//! The process transport (`python/aioxide/processes.py`) has each of its children watched; the turn
//! reports here. No signal is handled, no thread waits, and children that others started are left
//! to them.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use engine::poller::{Interest, Token};
use pyo3::PyTraverseError;
use pyo3::exceptions::PyValueError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyContext, PyDict};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, waitid};

use crate::cpython::cell::GilCell;
use crate::cpython::context;
use crate::errors;
use crate::event_loop::source::{self, Source};
use crate::event_loop::{BaseEventLoop, report};

struct ChildState {
    pidfd: Option<OwnedFd>,
    token: Option<Token>,
    home: Option<Py<BaseEventLoop>>,
    on_exit: Option<Py<PyAny>>,
    context: Option<Py<PyContext>>,
}

/// One child process that a loop watches.
#[pyclass(frozen, weakref, module = "aioxide._aioxide")]
pub struct Child {
    /// Its process identifier.
    #[pyo3(get)]
    pid: i32,
    state: GilCell<ChildState>,
}

#[pymethods]
impl Child {
    /// Watches the child `pid` of this process: `on_exit(returncode)` is called in a turn of
    /// `loop` once it is reaped, with None if somebody else reaped it.
    ///
    /// Raises OSError: ESRCH when it is reaped already, ENOSYS or EPERM where the kernel gives no
    /// pidfds, EMFILE.
    #[staticmethod]
    fn watch(
        r#loop: &Bound<'_, BaseEventLoop>,
        pid: i32,
        on_exit: Py<PyAny>,
    ) -> PyResult<Py<Child>> {
        let py = r#loop.py();
        // Not asked of a negative number: `Pid` holds none.
        let Some(known) = (pid > 0).then(|| Pid::from_raw(pid)).flatten() else {
            return Err(PyValueError::new_err(format!("pid must be above 0, not {pid}")));
        };
        let pidfd = pidfd_open(known, PidfdFlags::empty()).map_err(errors::from_errno)?;
        let fd = pidfd.as_raw_fd();
        let state = ChildState {
            pidfd: Some(pidfd),
            token: None,
            home: Some(r#loop.clone().unbind()),
            on_exit: Some(on_exit),
            context: Some(context::copy_current(py)?),
        };
        let child = Py::new(py, Child { pid, state: GilCell::new(state) })?;
        let source = Source::Child(child.clone_ref(py));
        let token = source::register(r#loop, fd, Interest::READ, source)?;
        child.get().state.with(py, |state| state.token = Some(token));
        Ok(child)
    }

    /// The pidfd, for `signal.pidfd_send_signal`; -1 once the child is reaped.
    fn fileno(&self, py: Python<'_>) -> i32 {
        self.state.with(py, |state| state.pidfd.as_ref().map_or(-1, AsRawFd::as_raw_fd))
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let stage = if self.fileno(py) < 0 { "reaped" } else { "running" };
        format!("<Child pid={} {stage}>", self.pid)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.state
            .peek(|state| {
                visit.call(&state.home)?;
                visit.call(&state.on_exit)?;
                visit.call(&state.context)
            })
            .unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| {
            drop(self.state.with(py, |state| (state.home.take(), state.on_exit.take())));
        });
    }
}

impl Child {
    /// The child exited: reap it, and tell.
    pub fn on_ready(this: &Bound<'_, Self>, event_loop: &Bound<'_, BaseEventLoop>) -> PyResult<()> {
        let py = this.py();
        let answer = this.get().state.with(py, |state| {
            state.pidfd.as_ref().map(|pidfd| {
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
                waitid(WaitId::PidFd(pidfd.as_fd()), options)
            })
        });
        let returncode = match answer {
            Some(Ok(Some(status))) => returncode(&status),
            // Nothing to reap yet: the kernel will report again.
            None | Some(Ok(None) | Err(Errno::INTR)) => return Ok(()),
            Some(Err(_)) => None,
        };
        let (token, pidfd, on_exit, inside) = this.get().state.with(py, |state| {
            (state.token.take(), state.pidfd.take(), state.on_exit.take(), state.context.take())
        });
        if let Some(token) = token {
            let kernel = event_loop.get().kernel(py)?;
            let entry =
                event_loop.get().state.with(py, |it| it.sources.unregister(&kernel.poller, token));
            drop(entry);
        }
        drop(pidfd);
        let (Some(on_exit), Some(inside)) = (on_exit, inside) else { return Ok(()) };
        match context::run_in(inside.bind(py), || on_exit.call1(py, (returncode,)))? {
            Ok(_) => Ok(()),
            Err(error) => report::unless_exit(event_loop, error, |error| {
                let details = PyDict::new(py);
                let shown = errors::repr(on_exit.bind(py));
                details.set_item("message", format!("Exception in callback {shown}"))?;
                details.set_item("exception", error.into_value(py))?;
                report::call_exception_handler(event_loop.as_any(), &details)
            }),
        }
    }
}

/// As `os.waitstatus_to_exitcode`: what it exited with, or the signal that ended it, negative.
fn returncode(status: &WaitIdStatus) -> Option<i32> {
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| -signal))
}
