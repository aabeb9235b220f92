//! The poller's contract on Linux: level-triggered epoll with waits counted in nanoseconds.
//! The loop owns one `Poller` and one `Events`. It never asks for EPOLLRDHUP (a half-closed peer
//! is found by reading) and never waits shorter than it was told, on old kernels either.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollEvent, EpollTimeout};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::{Interest, Readiness, Token};

/// The kernel adds the timeout to its clock: beyond some 68 years there is nothing to gain.
const LONGEST_WAIT_SECONDS: u64 = i32::MAX as u64;

/// Where a wait puts its reports. One per loop, made once and filled again and again.
pub struct Events {
    reported: Vec<Event>,
    capacity: usize,
    /// Room for the older system call's own type; empty until that call is needed.
    reported_by_milliseconds: Vec<EpollEvent>,
}

impl Events {
    /// A capacity that serves a busy server and costs 12 KiB.
    pub const USUAL_CAPACITY: usize = 1024;

    /// Room for `capacity` reports, at least one; what does not fit is reported by the next wait.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        let reported = Vec::with_capacity(capacity);
        Self { reported, capacity, reported_by_milliseconds: Vec::new() }
    }

    /// What the last wait reported.
    pub fn iter(&self) -> impl Iterator<Item = Readiness> + '_ {
        self.reported.iter().map(|event| readiness(event.flags, event.data.u64()))
    }

    /// Forgets the reports, for a turn that does not wait.
    pub fn clear(&mut self) {
        self.reported.clear();
    }

    /// How many reports the last wait brought.
    pub fn len(&self) -> usize {
        self.reported.len()
    }

    /// Whether the last wait brought none.
    pub fn is_empty(&self) -> bool {
        self.reported.is_empty()
    }

    /// The report at `position`, so that a caller can keep its place while it lets go of `self`.
    pub fn get(&self, position: usize) -> Option<Readiness> {
        self.reported.get(position).map(|event| readiness(event.flags, event.data.u64()))
    }
}

impl Default for Events {
    fn default() -> Self {
        Self::new(Self::USUAL_CAPACITY)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

/// An epoll instance.
#[derive(Debug)]
pub struct Poller {
    /// nix's type only because the older wait needs it; everything else borrows its descriptor.
    epoll: Epoll,
    /// Set once the kernel has refused the wait in nanoseconds.
    by_milliseconds: AtomicBool,
}

impl Poller {
    /// A poller that watches nothing yet. Its descriptor is closed by `exec`.
    pub fn new() -> io::Result<Self> {
        let descriptor = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self { epoll: Epoll(descriptor), by_milliseconds: AtomicBool::new(false) })
    }

    /// A poller that behaves as on a kernel before 5.11, for tests.
    #[doc(hidden)]
    pub fn new_by_milliseconds() -> io::Result<Self> {
        let poller = Self::new()?;
        poller.by_milliseconds.store(true, Ordering::Relaxed);
        Ok(poller)
    }

    /// Starts to watch a descriptor that is not watched yet.
    pub fn add(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        let data = EventData::new_u64(token.to_bits());
        Ok(epoll::add(&self.epoll.0, fd, data, flags(interest))?)
    }

    /// Changes the token and the interest of a descriptor that is watched.
    pub fn modify(&self, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        let data = EventData::new_u64(token.to_bits());
        Ok(epoll::modify(&self.epoll.0, fd, data, flags(interest))?)
    }

    /// Stops watching a descriptor. To be done before it is closed: a duplicate would keep the
    /// registration alive.
    pub fn delete(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll.0, fd)?)
    }

    /// Waits until something is ready or `timeout` has passed, and replaces `events`.
    ///
    /// `None` waits for ever, zero does not block. A signal ends the wait with
    /// `ErrorKind::Interrupted`. A timeout longer than the kernel can count ends early; otherwise
    /// a wait without reports has lasted at least as long as asked.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.reported.clear();
        if !self.by_milliseconds.load(Ordering::Relaxed) {
            let timeout = timeout.map(timespec);
            let room = spare_capacity(&mut events.reported);
            match epoll::wait(&self.epoll.0, room, timeout.as_ref()) {
                // Before Linux 5.11 the call is unknown; seccomp filters written before then
                // answer "not permitted", which the call itself never does.
                Err(Errno::NOSYS | Errno::PERM) => {
                    self.by_milliseconds.store(true, Ordering::Relaxed);
                }
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(()),
            }
        }
        self.wait_by_milliseconds(events, timeout)
    }

    #[cold]
    fn wait_by_milliseconds(
        &self,
        events: &mut Events,
        timeout: Option<Duration>,
    ) -> io::Result<()> {
        let room = &mut events.reported_by_milliseconds;
        room.resize(events.capacity, EpollEvent::empty());
        let count = self.epoll.wait(room, timeout.map_or(EpollTimeout::NONE, milliseconds))?;
        events.reported.extend(room.iter().take(count).map(|event| Event {
            flags: EventFlags::from_bits_retain(event.events().bits() as u32),
            data: EventData::new_u64(event.data()),
        }));
        Ok(())
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

fn flags(interest: Interest) -> EventFlags {
    let mut flags = EventFlags::empty();
    flags.set(EventFlags::IN, interest.read);
    flags.set(EventFlags::OUT, interest.write);
    flags
}

/// Reads the kernel's flags as `selectors.EpollSelector` does for asyncio: whatever is not
/// plainly about reading concerns writers, and the other way round.
#[inline]
fn readiness(flags: EventFlags, bits: u64) -> Readiness {
    Readiness {
        token: Token::from_bits(bits),
        readable: !flags.difference(EventFlags::OUT).is_empty(),
        writable: !flags.difference(EventFlags::IN).is_empty(),
        hung_up: flags.intersects(EventFlags::ERR | EventFlags::HUP),
    }
}

fn timespec(timeout: Duration) -> Timespec {
    Timespec {
        tv_sec: timeout.as_secs().min(LONGEST_WAIT_SECONDS) as _,
        tv_nsec: timeout.subsec_nanos() as _,
    }
}

fn milliseconds(timeout: Duration) -> EpollTimeout {
    let rounded_up = timeout.as_nanos().div_ceil(1_000_000);
    EpollTimeout::try_from(rounded_up).unwrap_or(EpollTimeout::MAX)
}

#[cfg(test)]
#[path = "epoll_tests.rs"]
mod tests;
