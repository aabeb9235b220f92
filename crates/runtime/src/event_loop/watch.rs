//! `add_reader`, `add_writer`, and who waits on a descriptor that Python owns.
//!
//! A descriptor has one entry with two sides. On each side waits either a Handle or one pending
//! `sock_*` operation (see [`super::sockets`]).

use std::io;
use std::os::fd::RawFd;

use engine::poller::{Interest, Readiness, Token};
use pyo3::PyTraverseError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyTuple};

use super::BaseEventLoop;
use super::callback::Callback;
use super::schedule;
use super::sockets::{self, Operation};
use super::source::{self, Source};
use super::state::{Kernel, LoopState};
use crate::cpython::{context, descriptor};
use crate::errors;
use crate::handles::{Handle, HandleContext};

/// Which direction is watched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Readable.
    Read,
    /// Writable.
    Write,
}

impl Side {
    fn add_to(self, interest: Interest) -> Interest {
        match self {
            Side::Read => interest.with_read(true),
            Side::Write => interest.with_write(true),
        }
    }
}

/// Who waits on one side.
pub enum Watcher {
    /// `add_reader` or `add_writer`: told each time. What was watched, unless it was a number,
    /// names the descriptor even after it was closed.
    Call(Py<Handle>, Option<Py<PyAny>>),
    /// A `sock_*` call: done once, then gone.
    Operation(Operation),
}

impl Watcher {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Watcher::Call(handle, file) => {
                visit.call(file)?;
                Handle::traverse_owned(handle, visit)
            }
            Watcher::Operation(operation) => operation.traverse(visit),
        }
    }
}

/// Both sides of one descriptor.
#[derive(Default)]
pub struct Watch {
    reader: Option<Watcher>,
    writer: Option<Watcher>,
}

impl Watch {
    fn side(&mut self, side: Side) -> &mut Option<Watcher> {
        match side {
            Side::Read => &mut self.reader,
            Side::Write => &mut self.writer,
        }
    }

    /// Whether this side was given `file`, itself and not a number, to watch.
    fn is_of(&self, side: Side, file: &Bound<'_, PyAny>) -> bool {
        let watcher = match side {
            Side::Read => &self.reader,
            Side::Write => &self.writer,
        };
        matches!(watcher, Some(Watcher::Call(_, Some(watched))) if watched.is(file))
    }

    fn wanted(&self) -> Interest {
        Interest { read: self.reader.is_some(), write: self.writer.is_some() }
    }

    /// Shows every Python object to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        for watcher in [&self.reader, &self.writer].into_iter().flatten() {
            watcher.traverse(visit)?;
        }
        Ok(())
    }
}

/// What a change of the table left over, to be dropped once the state is closed.
type Leftovers = (Option<Watcher>, Option<Source>);

/// Puts a watcher on one side of `fd`, replacing the one that was there.
///
/// The kernel is told even when it should know: a number that was closed and used again for
/// another file is then noticed (ENOENT) and registered afresh, under a new generation.
fn install(
    state: &mut LoopState,
    kernel: &Kernel,
    fd: RawFd,
    side: Side,
    watcher: Watcher,
) -> Result<Leftovers, (io::Error, Watcher)> {
    let poller = &kernel.poller;
    let mut stale = None;
    if let Some((token, entry)) = state.sources.by_descriptor(fd)
        && matches!(entry.source, Source::Watch(_))
    {
        let interest = side.add_to(entry.armed);
        match descriptor::lend(fd, |fd| poller.modify(fd, token, interest)) {
            Ok(()) => {
                let Some(entry) = state.sources.get(token) else {
                    return Ok((Some(watcher), None));
                };
                entry.armed = interest;
                let Source::Watch(watch) = &mut entry.source else {
                    return Ok((Some(watcher), None));
                };
                return Ok((watch.side(side).replace(watcher), None));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                stale = state.sources.unregister(poller, token);
            }
            Err(error) => return Err((error, watcher)),
        }
    }
    let mut watch = Watch::default();
    *watch.side(side) = Some(watcher);
    let interest = watch.wanted();
    match state.sources.register(poller, fd, interest, Source::Watch(watch)) {
        Ok((_, replaced)) => Ok((None, stale.or(replaced))),
        Err((error, Source::Watch(mut watch))) => match watch.side(side).take() {
            Some(watcher) => Err((error, watcher)),
            None => Ok((None, stale)),
        },
        Err((_, source)) => Ok((None, Some(source))),
    }
}

fn put(
    event_loop: &Bound<'_, BaseEventLoop>,
    fd: RawFd,
    side: Side,
    watcher: Watcher,
) -> PyResult<Option<Watcher>> {
    let py = event_loop.py();
    let kernel = event_loop.get().kernel(py)?;
    let result =
        event_loop.get().state.with(py, |state| install(state, &kernel, fd, side, watcher));
    let (replaced, stale) = result.map_err(|(error, _watcher)| errors::from_io(&error))?;
    if let Some(Watcher::Call(handle, _)) = &replaced {
        cancel(handle.bind(py))?;
    }
    source::abandon(py, stale)?;
    Ok(replaced)
}

fn cancel(handle: &Bound<'_, Handle>) -> PyResult<()> {
    handle.call_method0(pyo3::intern!(handle.py(), "cancel")).map(drop)
}

/// Lets a `sock_*` operation wait for its side of `fd`.
pub fn wait_for(
    event_loop: &Bound<'_, BaseEventLoop>,
    fd: RawFd,
    side: Side,
    operation: Operation,
) -> PyResult<()> {
    put(event_loop, fd, side, Watcher::Operation(operation)).map(drop)
}

/// `loop.add_reader` and `loop.add_writer`.
pub fn add(
    event_loop: &Bound<'_, BaseEventLoop>,
    file: &Bound<'_, PyAny>,
    side: Side,
    callback: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
) -> PyResult<Py<Handle>> {
    let py = event_loop.py();
    event_loop.get().check_open(py)?;
    let fd = descriptor::number(file)?;
    let context = HandleContext::Own(context::copy_current(py)?);
    let args = schedule::arguments(args);
    let debug = event_loop.get().is_debug(py);
    let callback = callback.clone().unbind();
    let handle = Handle::new(py, event_loop, callback, args, context, debug)?;
    let file = (!file.is_instance_of::<PyInt>()).then(|| file.clone().unbind());
    put(event_loop, fd, side, Watcher::Call(handle.clone_ref(py), file))?;
    Ok(handle)
}

/// `loop.remove_reader` and `loop.remove_writer`.
pub fn remove(
    event_loop: &Bound<'_, BaseEventLoop>,
    file: &Bound<'_, PyAny>,
    side: Side,
) -> PyResult<bool> {
    let py = event_loop.py();
    if event_loop.get().flags(py).closed {
        return Ok(false);
    }
    let fd = match descriptor::number(file) {
        Ok(fd) => fd,
        Err(error) => watched_as(event_loop, file, side).ok_or(error)?,
    };
    match take(event_loop, fd, side, |_| true)? {
        Some(Watcher::Call(handle, _)) => {
            cancel(handle.bind(py))?;
            Ok(true)
        }
        Some(Watcher::Operation(_)) => Ok(true),
        None => Ok(false),
    }
}

/// The number that a file, closed since then, was watched under: a selector finds it by identity.
fn watched_as(
    event_loop: &Bound<'_, BaseEventLoop>,
    file: &Bound<'_, PyAny>,
    side: Side,
) -> Option<RawFd> {
    event_loop.get().state.with(file.py(), |state| {
        state.sources.find(|source| match source {
            Source::Watch(watch) => watch.is_of(side, file),
            _ => false,
        })
    })
}

/// A `sock_*` call was cancelled: its operation no longer waits.
pub fn forget(
    event_loop: &Bound<'_, BaseEventLoop>,
    fd: RawFd,
    future: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let py = event_loop.py();
    if event_loop.get().flags(py).closed {
        return Ok(());
    }
    for side in [Side::Read, Side::Write] {
        take(event_loop, fd, side, |watcher| match watcher {
            Watcher::Operation(operation) => operation.is_for(future),
            Watcher::Call(..) => false,
        })?;
    }
    Ok(())
}

/// Takes the watcher off one side, if it is the one meant, and tells the kernel.
fn take(
    event_loop: &Bound<'_, BaseEventLoop>,
    fd: RawFd,
    side: Side,
    is_meant: impl FnOnce(&Watcher) -> bool,
) -> PyResult<Option<Watcher>> {
    let py = event_loop.py();
    let kernel = event_loop.get().kernel(py)?;
    let (watcher, entry) = event_loop.get().state.with(py, |state| {
        let Some((token, _)) = state.sources.by_descriptor(fd) else { return (None, None) };
        let Some(entry) = state.sources.get(token) else { return (None, None) };
        let Source::Watch(watch) = &mut entry.source else { return (None, None) };
        if !watch.side(side).as_ref().is_some_and(is_meant) {
            return (None, None);
        }
        let watcher = watch.side(side).take();
        let wanted = watch.wanted();
        if wanted.is_none() {
            return (watcher, state.sources.unregister(&kernel.poller, token));
        }
        // Fails only when the descriptor was closed: then there is nothing to tell.
        let _ = state.sources.arm(&kernel.poller, token, wanted);
        (watcher, None)
    });
    drop(entry);
    Ok(watcher)
}

/// What a readiness event means for one descriptor.
#[derive(Default)]
struct Fired {
    fd: RawFd,
    handles: [Option<Py<Handle>>; 2],
    operations: [Option<Operation>; 2],
    /// Sides that reported although nobody waits there.
    idle: Interest,
}

/// The kernel reported a watched descriptor.
pub fn on_ready(event_loop: &Bound<'_, BaseEventLoop>, readiness: Readiness) -> PyResult<()> {
    let py = event_loop.py();
    let kernel = event_loop.get().kernel(py)?;
    let (fired, gone) = event_loop.get().state.with(py, |state| {
        let fired = fire(py, state, readiness);
        let gone = disarm(state, &kernel, readiness.token, fired.idle);
        (fired, gone)
    });
    drop(gone);
    for (side, handle) in SIDES.into_iter().zip(fired.handles) {
        let Some(handle) = handle else { continue };
        if handle.get().is_cancelled(py) {
            take(event_loop, fired.fd, side, |watcher| match watcher {
                Watcher::Call(other, _) => other.is(&handle),
                Watcher::Operation(_) => false,
            })?;
        } else {
            event_loop.get().push(py, Callback::Fire(handle));
        }
    }
    for (side, operation) in SIDES.into_iter().zip(fired.operations) {
        if let Some(operation) = operation {
            sockets::resume(event_loop, fired.fd, side, operation)?;
        }
    }
    Ok(())
}

const SIDES: [Side; 2] = [Side::Read, Side::Write];

fn fire(py: Python<'_>, state: &mut LoopState, readiness: Readiness) -> Fired {
    let mut fired = Fired::default();
    let Some(entry) = state.sources.get(readiness.token) else { return fired };
    fired.fd = entry.fd;
    let Source::Watch(watch) = &mut entry.source else { return fired };
    for (index, ready) in [readiness.readable, readiness.writable].into_iter().enumerate() {
        if !ready {
            continue;
        }
        let side = SIDES[index];
        match watch.side(side).take() {
            Some(Watcher::Call(handle, file)) => {
                fired.handles[index] = Some(handle.clone_ref(py));
                *watch.side(side) = Some(Watcher::Call(handle, file));
            }
            Some(Watcher::Operation(operation)) => fired.operations[index] = Some(operation),
            None => fired.idle = side.add_to(fired.idle),
        }
    }
    fired
}

/// Disarms the sides that reported although nobody waits there. An operation that fires leaves
/// its side armed, because another one usually follows; only when none does is the kernel told.
/// An entry with nothing armed is unregistered: the kernel would go on reporting a hang-up.
fn disarm(state: &mut LoopState, kernel: &Kernel, token: Token, idle: Interest) -> Option<Source> {
    if idle.is_none() {
        return None;
    }
    let armed = state.sources.get(token)?.armed;
    let rest = Interest { read: armed.read && !idle.read, write: armed.write && !idle.write };
    if rest.is_none() {
        return state.sources.unregister(&kernel.poller, token);
    }
    // Fails only when the descriptor was closed: then there is nothing to tell.
    let _ = state.sources.arm(&kernel.poller, token, rest);
    None
}

/// Refuses a descriptor that a transport of this loop uses.
pub fn ensure_no_transport(
    event_loop: &Bound<'_, BaseEventLoop>,
    file: &Bound<'_, PyAny>,
) -> PyResult<()> {
    ensure_unused(event_loop, descriptor::any_number(file)?, || errors::repr(file))
}

/// As [`ensure_no_transport`], for a number; `shown` names it in the error.
pub fn ensure_unused(
    event_loop: &Bound<'_, BaseEventLoop>,
    fd: RawFd,
    shown: impl FnOnce() -> String,
) -> PyResult<()> {
    let py = event_loop.py();
    let transport = event_loop.get().state.with(py, |state| {
        match state.sources.by_descriptor(fd).map(|(_, entry)| &entry.source) {
            Some(Source::Transport(transport)) => Some(transport.clone_ref(py)),
            _ => None,
        }
    });
    if let Some(transport) = transport
        && !transport.is_closing(py)
    {
        return Err(PyRuntimeError::new_err(format!(
            "File descriptor {} is used by transport {}",
            shown(),
            errors::repr(transport.object(py))
        )));
    }
    Ok(())
}
