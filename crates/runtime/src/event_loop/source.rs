//! Everything the kernel can wake us for: a closed list, and the table of what is registered.
//!
//! One registration per descriptor for its life. A token carries a generation, so that a slot (or
//! a descriptor number) that was freed and used again never receives its predecessor's readiness.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use engine::mailbox::Mailbox;
use engine::poller::{Interest, Poller, Token};
use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use slab::Slab;

use super::BaseEventLoop;
use super::mailbox::Posted;
use super::watch::Watch;
use crate::children::Child;
use crate::cpython::descriptor;
use crate::cpython::frames::{self, Site};
use crate::errors;
use crate::transports::Transport;
use crate::transports::listener::Listener;

/// Something that becomes ready.
pub enum Source {
    /// A transport with a protocol.
    Transport(Transport),
    /// A listening socket.
    Listener(Py<Listener>),
    /// `add_reader`, `add_writer` and the `sock_*` calls.
    Watch(Watch),
    /// A child process, by its pidfd.
    Child(Py<Child>),
    /// The mailbox's wake-up, which only ends the wait.
    Mailbox,
}

impl Source {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Source::Transport(transport) => transport.traverse(visit),
            Source::Listener(listener) => visit.call(listener),
            Source::Watch(watch) => watch.traverse(visit),
            Source::Child(child) => visit.call(child),
            Source::Mailbox => Ok(()),
        }
    }
}

/// One registered descriptor.
pub struct Registered {
    /// Its number.
    pub fd: RawFd,
    generation: u32,
    /// What the kernel was told to report.
    pub armed: Interest,
    /// Who is told.
    pub source: Source,
    /// The line that opened a transport, if its loop wants to know.
    opened_at: Option<Site>,
}

/// The table of registered descriptors.
#[derive(Default)]
pub struct Sources {
    slots: Slab<Registered>,
    by_descriptor: HashMap<RawFd, usize>,
    generations: u32,
}

impl Sources {
    /// Registers the mailbox's eventfd.
    pub fn watch_mailbox(&mut self, poller: &Poller, mailbox: &Mailbox<Posted>) -> io::Result<()> {
        let fd = mailbox.as_fd().as_raw_fd();
        let token = self.insert(fd, Interest::READ, Source::Mailbox);
        poller.add(mailbox, token, Interest::READ)
    }

    fn insert(&mut self, fd: RawFd, armed: Interest, source: Source) -> Token {
        self.generations = self.generations.wrapping_add(1);
        let generation = self.generations;
        let index =
            self.slots.insert(Registered { fd, generation, armed, source, opened_at: None });
        self.by_descriptor.insert(fd, index);
        Token { index: index as u32, generation }
    }

    /// Registers a descriptor. An entry that the number still had belonged to a descriptor that
    /// was closed behind our back; it is returned, so that its owner can be told.
    ///
    /// # Errors
    /// The kernel's: EPERM for a regular file, EEXIST when the number is truly in use.
    pub fn register(
        &mut self,
        poller: &Poller,
        fd: RawFd,
        interest: Interest,
        source: Source,
    ) -> Result<(Token, Option<Source>), (io::Error, Source)> {
        let stale = self.by_descriptor.get(&fd).copied();
        let token = self.insert(fd, interest, source);
        let added = if interest.is_none() {
            Ok(())
        } else {
            descriptor::lend(fd, |fd| poller.add(fd, token, interest))
        };
        match added {
            Ok(()) => {
                let stale = stale.map(|index| self.slots.remove(index).source);
                Ok((token, stale))
            }
            Err(error) => {
                let entry = self.slots.remove(token.index as usize);
                match stale {
                    Some(index) => self.by_descriptor.insert(fd, index),
                    None => self.by_descriptor.remove(&fd),
                };
                Err((error, entry.source))
            }
        }
    }

    /// The live entry behind a token; None when it was unregistered meanwhile.
    #[inline]
    pub fn get(&mut self, token: Token) -> Option<&mut Registered> {
        let entry = self.slots.get_mut(token.index as usize)?;
        (entry.generation == token.generation).then_some(entry)
    }

    /// The entry a descriptor number has.
    pub fn by_descriptor(&self, fd: RawFd) -> Option<(Token, &Registered)> {
        let index = *self.by_descriptor.get(&fd)?;
        let entry = self.slots.get(index)?;
        Some((Token { index: index as u32, generation: entry.generation }, entry))
    }

    /// The descriptor number of the first entry whose source is the one looked for.
    pub fn find(&self, is_meant: impl Fn(&Source) -> bool) -> Option<RawFd> {
        self.slots.iter().find(|(_, entry)| is_meant(&entry.source)).map(|(_, entry)| entry.fd)
    }

    /// Tells the kernel what to report from now on; no system call when that is known already.
    /// With nothing to report the descriptor leaves the kernel's list, because errors and hang-ups
    /// are reported even to those who ask for nothing.
    pub fn arm(&mut self, poller: &Poller, token: Token, interest: Interest) -> io::Result<()> {
        let Some(entry) = self.get(token) else { return Ok(()) };
        if entry.armed == interest {
            return Ok(());
        }
        let was = std::mem::replace(&mut entry.armed, interest);
        descriptor::lend(entry.fd, |fd| {
            if interest.is_none() {
                poller.delete(fd)
            } else if was.is_none() {
                poller.add(fd, token, interest)
            } else {
                poller.modify(fd, token, interest)
            }
        })
    }

    /// Forgets an entry. The kernel is told too, unless the descriptor is gone already.
    pub fn unregister(&mut self, poller: &Poller, token: Token) -> Option<Source> {
        self.get(token)?;
        let entry = self.slots.remove(token.index as usize);
        if self.by_descriptor.get(&entry.fd) == Some(&(token.index as usize)) {
            self.by_descriptor.remove(&entry.fd);
        }
        // A descriptor that was closed has left the kernel's list by itself.
        if entry.armed.is_none() {
            return Some(entry.source);
        }
        let _ = descriptor::lend(entry.fd, |fd| poller.delete(fd));
        Some(entry.source)
    }

    /// Shows every Python object to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.slots.iter().try_for_each(|(_, entry)| {
            entry.opened_at.iter().try_for_each(|site| site.traverse(visit))?;
            entry.source.traverse(visit)
        })
    }
}

/// Registers a descriptor with a loop. A transport whose number it was, because the program closed
/// the descriptor behind its back, is told that it has lost it.
pub fn register(
    event_loop: &Bound<'_, BaseEventLoop>,
    fd: RawFd,
    interest: Interest,
    source: Source,
) -> PyResult<Token> {
    let py = event_loop.py();
    let kernel = event_loop.get().kernel(py)?;
    let registered = event_loop
        .get()
        .state
        .with(py, |state| state.sources.register(&kernel.poller, fd, interest, source));
    let (token, stale) = registered.map_err(|(error, _source)| errors::from_io(&error))?;
    abandon(py, stale)?;
    note_opening(event_loop, token);
    Ok(token)
}

/// Where a transport is opened, if its loop reports soon what goes wrong. Connections that a
/// server accepts are opened by no line of the program.
fn note_opening(event_loop: &Bound<'_, BaseEventLoop>, token: Token) {
    let py = event_loop.py();
    let is_wanted = event_loop.get().flags(py).reports_soon;
    if !is_wanted || event_loop.get().stepping(event_loop).is_none() {
        return;
    }
    let site = frames::caller(py);
    event_loop.get().state.with(py, |state| {
        if let Some(entry) = state.sources.get(token) {
            entry.opened_at = site;
        }
    });
}

/// The transports that are open, and where each was opened as far as that is known.
pub fn open_transports<'py>(
    event_loop: &Bound<'py, BaseEventLoop>,
) -> Vec<(Bound<'py, PyAny>, Option<Site>)> {
    let py = event_loop.py();
    let entries: Vec<_> = event_loop.get().state.with(py, |state| {
        let entries = state.sources.slots.iter().map(|(_, entry)| entry);
        entries
            .filter_map(|entry| match &entry.source {
                Source::Transport(transport) => {
                    let site = entry.opened_at.as_ref().map(|site| site.clone_ref(py));
                    Some((transport.clone_ref(py), site))
                }
                _ => None,
            })
            .collect()
    });
    let is_open = |(transport, _): &(Transport, _)| !transport.is_closing(py);
    let shown = |(transport, site): (Transport, _)| (transport.object(py).clone(), site);
    entries.into_iter().filter(is_open).map(shown).collect()
}

/// Whether a transport that was closed still has something to send, or a goodbye to hear.
pub fn is_any_closing(event_loop: &Bound<'_, BaseEventLoop>) -> bool {
    let py = event_loop.py();
    event_loop.get().state.with(py, |state| {
        state.sources.slots.iter().any(|(_, entry)| match &entry.source {
            Source::Transport(transport) => transport.is_leaving(py),
            _ => false,
        })
    })
}

/// The transport behind a token, as the program sees it.
pub fn transport<'py>(
    event_loop: &Bound<'py, BaseEventLoop>,
    token: Token,
) -> Option<Bound<'py, PyAny>> {
    let py = event_loop.py();
    let transport =
        event_loop.get().state.with(py, |state| match &state.sources.get(token)?.source {
            Source::Transport(transport) => Some(transport.clone_ref(py)),
            _ => None,
        });
    transport.map(|transport| transport.object(py).clone())
}

/// Tells the owner of an entry whose descriptor is gone.
pub fn abandon(py: Python<'_>, stale: Option<Source>) -> PyResult<()> {
    match stale {
        Some(Source::Transport(transport)) => transport.lost_descriptor(py),
        _ => Ok(()),
    }
}
