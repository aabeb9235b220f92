//! The one door through which other threads reach the loop: a locked list and an eventfd.
//! Anyone posts or wakes; only the loop prepares, waits and takes. The eventfd is written only
//! while the loop is parked, and nothing of `T` is ever dropped while the lock is held.

use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

struct Inside<T> {
    items: Vec<T>,
    /// Someone asked for a turn without bringing an item.
    woken: bool,
    closed: bool,
    /// What has been or is being added to the eventfd and has not been read back. A write that
    /// is still under way when the loop wakes for another reason is read back a wait later.
    unread: u64,
}

/// Items from any thread for the one that owns the loop.
///
/// The loop's order is: `prepare_to_wait`, the poller's wait (without blocking if preparing said
/// no), `finish_wait`, `take`. Flags that a `wake` announces are looked at after `take`.
pub struct Mailbox<T> {
    inside: Mutex<Inside<T>>,
    /// A copy of "there are items or a wake", written under the lock, read without it.
    occupied: AtomicBool,
    /// The loop may be blocked in its wait, and nobody has written the eventfd since it parked.
    /// Written under the lock, read without it by those who know that the loop cannot park now.
    parked: AtomicBool,
    signal: OwnedFd,
}

impl<T> Mailbox<T> {
    /// An open, empty mailbox. Its eventfd does not block and is closed by `exec`.
    pub fn new() -> io::Result<Self> {
        let signal = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let inside = Inside { items: Vec::new(), woken: false, closed: false, unread: 0 };
        Ok(Self {
            inside: Mutex::new(inside),
            occupied: AtomicBool::new(false),
            parked: AtomicBool::new(false),
            signal,
        })
    }

    /// Leaves an item, and wakes the loop if it is parked. After `close` the item comes back.
    pub fn post(&self, item: T) -> Result<(), T> {
        let mut inside = self.lock();
        if inside.closed {
            return Err(item);
        }
        inside.items.push(item);
        self.announce(inside);
        Ok(())
    }

    /// Wakes the loop without leaving an item. After `close` it does nothing.
    pub fn wake(&self) {
        let mut inside = self.lock();
        if !inside.closed {
            inside.woken = true;
            self.announce(inside);
        }
    }

    /// Called by the loop just before a wait that may block. `false`: do not block, there is
    /// something here already. `true`: whatever comes from now on writes the eventfd.
    pub fn prepare_to_wait(&self) -> bool {
        let inside = self.lock();
        let parked = inside.items.is_empty() && !inside.woken;
        self.parked.store(parked, Ordering::Relaxed);
        parked
    }

    /// Whether a `wake` would write the eventfd. Only a hint, unless the caller holds a lock that
    /// the loop needs in order to park.
    #[inline]
    pub fn is_parked(&self) -> bool {
        self.parked.load(Ordering::Relaxed)
    }

    /// Called by the loop after a wait, whatever ended it: no more writes are needed, and the
    /// one that was made is read back.
    pub fn finish_wait(&self) {
        let mut inside = self.lock();
        self.parked.store(false, Ordering::Relaxed);
        if inside.unread > 0 {
            let read = self.read_signal();
            inside.unread = inside.unread.saturating_sub(read);
        }
    }

    /// Reads the eventfd even if no write of this mailbox is outstanding.
    ///
    /// A forked child holds the same eventfd and a copy of everything else, so it can write what
    /// nobody here expects, and the poller would report that for ever. To be called when the
    /// eventfd is reported although `finish_wait` has just been called.
    pub fn discard_stray_signal(&self) {
        let mut inside = self.lock();
        let read = self.read_signal();
        inside.unread = inside.unread.saturating_sub(read);
    }

    /// Appends all items to `into`, in the order they came, and forgets wakes.
    ///
    /// When `into` is empty the two lists change places: a loop that hands over the same list
    /// each time allocates nothing once both have grown.
    pub fn take(&self, into: &mut Vec<T>) {
        let mut inside = self.lock();
        inside.woken = false;
        self.occupied.store(false, Ordering::Relaxed);
        if into.is_empty() {
            mem::swap(into, &mut inside.items);
        } else {
            into.append(&mut inside.items);
        }
    }

    /// Whether `take` would probably find nothing. May lag behind another thread's post;
    /// `prepare_to_wait` does not.
    #[inline]
    pub fn is_empty_hint(&self) -> bool {
        !self.occupied.load(Ordering::Relaxed)
    }

    /// Shuts the door: later posts come back to their senders. Returns what was never taken.
    pub fn close(&self) -> Vec<T> {
        let mut inside = self.lock();
        inside.closed = true;
        inside.woken = false;
        self.occupied.store(false, Ordering::Relaxed);
        mem::take(&mut inside.items)
    }

    /// A thread that panicked with the lock held has left the list whole: each change to it is
    /// a single step.
    fn lock(&self) -> MutexGuard<'_, Inside<T>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self, mut inside: MutexGuard<'_, Inside<T>>) {
        self.occupied.store(true, Ordering::Relaxed);
        if !self.parked.swap(false, Ordering::Relaxed) {
            return;
        }
        inside.unread += 1;
        // The loop wakes at once and wants the lock: let it go before the write.
        drop(inside);
        // It can fail only if the descriptor was closed behind our back, or if the counter is
        // full and therefore readable anyway; there is nobody to tell in either case.
        let _ = rustix::io::write(&self.signal, &1u64.to_ne_bytes());
    }

    /// The sum of the writes since the last read; zero if there was none.
    fn read_signal(&self) -> u64 {
        let mut sum = [0; 8];
        match rustix::io::read(&self.signal, &mut sum) {
            Ok(_) => u64::from_ne_bytes(sum),
            Err(_) => 0,
        }
    }
}

impl<T> AsFd for Mailbox<T> {
    /// The eventfd, to be watched for reading.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signal.as_fd()
    }
}

impl<T> fmt::Debug for Mailbox<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Mailbox")
            .field("is_empty_hint", &self.is_empty_hint())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;
    use crate::poller::{Events, Interest, Poller, Token};
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    /// How much waits in the eventfd; reading it leaves zero.
    fn drain<T>(mailbox: &Mailbox<T>) -> u64 {
        mailbox.read_signal()
    }

    fn taken<T>(mailbox: &Mailbox<T>) -> Vec<T> {
        let mut items = Vec::new();
        mailbox.take(&mut items);
        items
    }

    fn watched<T>(mailbox: &Mailbox<T>) -> Poller {
        let poller = Poller::new().unwrap();
        poller.add(mailbox, Token { index: 0, generation: 0 }, Interest::READ).unwrap();
        poller
    }

    fn is_signalled(poller: &Poller) -> bool {
        let mut events = Events::default();
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        !events.is_empty()
    }

    #[test]
    fn items_come_out_in_order_and_are_appended() {
        let mailbox = Mailbox::new().unwrap();
        assert!(mailbox.is_empty_hint());
        for item in 1..4 {
            mailbox.post(item).unwrap();
        }
        assert!(!mailbox.is_empty_hint());
        let mut items = vec![0];
        mailbox.take(&mut items);
        assert_eq!(items, [0, 1, 2, 3]);
        assert!(mailbox.is_empty_hint());
        assert!(taken(&mailbox).is_empty());
    }

    #[test]
    fn the_eventfd_is_written_once_per_parking() {
        let mailbox = Mailbox::new().unwrap();
        mailbox.post(0).unwrap();
        assert_eq!(drain(&mailbox), 0);
        taken(&mailbox);
        assert!(mailbox.prepare_to_wait());
        for item in 0..1000 {
            mailbox.post(item).unwrap();
        }
        mailbox.wake();
        assert_eq!(drain(&mailbox), 1);
    }

    #[test]
    fn finishing_a_wait_consumes_the_signal_and_unparks() {
        let mailbox = Mailbox::new().unwrap();
        let poller = watched(&mailbox);
        assert!(mailbox.prepare_to_wait());
        assert!(!is_signalled(&poller));
        mailbox.post(1).unwrap();
        assert!(is_signalled(&poller));
        mailbox.finish_wait();
        assert!(!is_signalled(&poller));
        mailbox.post(2).unwrap();
        assert!(!is_signalled(&poller));
        assert_eq!(taken(&mailbox), [1, 2]);
    }

    #[test]
    fn a_write_that_comes_late_is_read_back_a_wait_later() {
        let mailbox = Mailbox::<u8>::new().unwrap();
        let poller = watched(&mailbox);
        mailbox.lock().unread = 1;
        mailbox.finish_wait();
        rustix::io::write(&mailbox.signal, &1u64.to_ne_bytes()).unwrap();
        assert!(is_signalled(&poller));
        mailbox.finish_wait();
        assert!(!is_signalled(&poller));
        assert_eq!(mailbox.lock().unread, 0);
    }

    #[test]
    fn a_stray_signal_can_be_discarded() {
        let mailbox = Mailbox::<u8>::new().unwrap();
        let poller = watched(&mailbox);
        rustix::io::write(&mailbox.signal, &1u64.to_ne_bytes()).unwrap();
        mailbox.finish_wait();
        assert!(is_signalled(&poller));
        mailbox.discard_stray_signal();
        assert!(!is_signalled(&poller));
    }

    #[test]
    fn the_loop_does_not_park_over_items_or_wakes() {
        let mailbox = Mailbox::new().unwrap();
        mailbox.wake();
        assert!(!mailbox.is_empty_hint());
        assert!(!mailbox.prepare_to_wait());
        assert!(taken(&mailbox).is_empty());
        assert!(mailbox.prepare_to_wait());
        mailbox.finish_wait();
        mailbox.post(1).unwrap();
        assert!(!mailbox.prepare_to_wait());
        mailbox.post(2).unwrap();
        assert_eq!(drain(&mailbox), 0);
    }

    #[test]
    fn a_closed_mailbox_returns_items_to_their_senders() {
        let mailbox = Mailbox::new().unwrap();
        mailbox.post(1).unwrap();
        assert_eq!(mailbox.close(), [1]);
        assert_eq!(mailbox.post(2), Err(2));
        mailbox.wake();
        assert!(mailbox.is_empty_hint());
        assert!(mailbox.close().is_empty());
    }

    #[test]
    fn taking_into_the_same_list_allocates_nothing_once_warm() {
        let mailbox = Mailbox::new().unwrap();
        let mut items = Vec::new();
        let mut round = || {
            for item in 0..50 {
                mailbox.post(item).unwrap();
            }
            mailbox.take(&mut items);
            assert_eq!(items.len(), 50);
            items.clear();
            items.as_ptr()
        };
        let warm = [round(), round()];
        assert_eq!([round(), round()], warm);
    }

    #[test]
    fn a_poisoned_lock_still_opens() {
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let other = Arc::clone(&mailbox);
        let outcome = thread::spawn(move || {
            let _guard = other.lock();
            panic!("on purpose, with the lock held");
        })
        .join();
        assert!(outcome.is_err());
        mailbox.post(1).unwrap();
        assert_eq!(taken(&mailbox), [1]);
    }

    #[test]
    fn no_post_of_many_threads_is_lost_and_every_wait_ends() {
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let poller = watched(&mailbox);
        let senders: Vec<_> = (0..4)
            .map(|sender| {
                let mailbox = Arc::clone(&mailbox);
                thread::spawn(move || {
                    for number in 0..5_000 {
                        mailbox.post((sender, number)).unwrap();
                    }
                })
            })
            .collect();
        let mut next = [0; 4];
        let mut events = Events::default();
        let mut items = Vec::new();
        while next.iter().sum::<i32>() < 20_000 {
            if mailbox.prepare_to_wait() {
                // Sixty seconds only so that a lost wake-up fails instead of hanging.
                poller.wait(&mut events, Some(Duration::from_secs(60))).unwrap();
                assert!(!events.is_empty(), "a wake-up was lost");
            }
            mailbox.finish_wait();
            mailbox.take(&mut items);
            for (sender, number) in items.drain(..) {
                assert_eq!(number, next[sender]);
                next[sender] += 1;
            }
        }
        for sender in senders {
            sender.join().unwrap();
        }
        mailbox.finish_wait();
        assert!(!is_signalled(&poller));
    }
}
