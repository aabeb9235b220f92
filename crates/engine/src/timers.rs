//! What is due, earliest first; among equal deadlines, in the order of insertion.
//! The loop asks for the next deadline before it waits and takes what is due afterwards.
//! It never reads a clock, and a cancelled timer costs its successors nothing.

use std::fmt;

use slab::Slab;

/// Below this many cancelled entries a sweep saves less than it costs.
const SWEEP_ABOVE: usize = 64;

/// The name of one timer, good for cancelling it and for nothing else.
///
/// A name that has been used up matches no later timer of the same `Timers`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerId {
    slot: usize,
    sequence: u64,
}

/// One place of the heap. A cancelled timer leaves its entry behind, to be passed over later.
#[derive(Clone, Copy)]
struct Entry {
    deadline: u64,
    sequence: u64,
    slot: usize,
}

impl Entry {
    #[inline]
    fn before(&self, other: &Self) -> bool {
        (self.deadline, self.sequence) < (other.deadline, other.sequence)
    }
}

struct Slot<T> {
    sequence: u64,
    payload: T,
}

/// Payloads with deadlines in nanoseconds of the caller's clock.
///
/// A binary heap of small entries beside a slab of payloads: sifting moves 24 bytes whatever `T`
/// is. The sequence number keeps equal deadlines in order and is the generation of a slot too.
pub struct Timers<T> {
    heap: Vec<Entry>,
    slots: Slab<Slot<T>>,
    next_sequence: u64,
}

impl<T> Timers<T> {
    /// No timers, and no memory yet.
    pub const fn new() -> Self {
        Self { heap: Vec::new(), slots: Slab::new(), next_sequence: 0 }
    }

    /// Adds a timer, after all that have the same deadline.
    pub fn insert(&mut self, deadline: u64, payload: T) -> TimerId {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let slot = self.slots.insert(Slot { sequence, payload });
        self.heap.push(Entry { deadline, sequence, slot });
        self.sift_up(self.heap.len() - 1);
        TimerId { slot, sequence }
    }

    /// Takes a timer back before it is due; `None` if it was due, cancelled or cleared already.
    pub fn cancel(&mut self, id: TimerId) -> Option<T> {
        if self.slots.get(id.slot)?.sequence != id.sequence {
            return None;
        }
        let slot = self.slots.try_remove(id.slot)?;
        self.forget_cancelled();
        Some(slot.payload)
    }

    /// The earliest deadline of all timers that still stand.
    pub fn next_deadline(&mut self) -> Option<u64> {
        loop {
            let head = *self.heap.first()?;
            if self.is_live(&head) {
                return Some(head.deadline);
            }
            self.remove_head();
        }
    }

    /// Takes the earliest timer whose deadline is not after `now`.
    pub fn pop_due(&mut self, now: u64) -> Option<T> {
        if self.next_deadline()? > now {
            return None;
        }
        let head = self.remove_head()?;
        self.slots.try_remove(head.slot).map(|slot| slot.payload)
    }

    /// How many timers stand.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no timer stands.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The payloads of all timers that stand, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().map(|(_, slot)| &slot.payload)
    }

    /// Takes all timers at once, in no particular order, so that the caller drops the payloads
    /// when it has let go of `self`. Their names stay used up.
    pub fn clear(&mut self) -> Vec<T> {
        self.heap.clear();
        self.slots.drain().map(|slot| slot.payload).collect()
    }

    #[inline]
    fn is_live(&self, entry: &Entry) -> bool {
        self.slots.get(entry.slot).is_some_and(|slot| slot.sequence == entry.sequence)
    }

    /// Removes the entries of cancelled timers where that is cheap, or where they have become
    /// the greater part of the heap.
    #[inline]
    fn forget_cancelled(&mut self) {
        // The end of the array is a leaf, so it may be cut off. A timer that was set far away
        // and soon cancelled is usually found there.
        while let Some(last) = self.heap.last() {
            if self.is_live(last) {
                break;
            }
            self.heap.pop();
        }
        let cancelled = self.heap.len() - self.slots.len();
        if cancelled > SWEEP_ABOVE && cancelled > self.heap.len() / 2 {
            self.sweep();
        }
    }

    #[cold]
    fn sweep(&mut self) {
        let slots = &self.slots;
        self.heap.retain(|entry| {
            slots.get(entry.slot).is_some_and(|slot| slot.sequence == entry.sequence)
        });
        for position in (0..self.heap.len() / 2).rev() {
            self.sift_down(position);
        }
    }

    fn remove_head(&mut self) -> Option<Entry> {
        if self.heap.is_empty() {
            return None;
        }
        let head = self.heap.swap_remove(0);
        self.sift_down(0);
        Some(head)
    }

    #[inline]
    fn sift_up(&mut self, mut position: usize) {
        while position > 0 {
            let parent = (position - 1) / 2;
            if !self.heap[position].before(&self.heap[parent]) {
                break;
            }
            self.heap.swap(position, parent);
            position = parent;
        }
    }

    fn sift_down(&mut self, mut position: usize) {
        loop {
            let mut child = 2 * position + 1;
            if child >= self.heap.len() {
                break;
            }
            let sibling = child + 1;
            if sibling < self.heap.len() && self.heap[sibling].before(&self.heap[child]) {
                child = sibling;
            }
            if !self.heap[child].before(&self.heap[position]) {
                break;
            }
            self.heap.swap(position, child);
            position = child;
        }
    }
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Timers<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Timers").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// A xorshift generator: the same numbers in every run.
    struct Numbers(u64);

    impl Numbers {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % bound
        }
    }

    fn assert_heap_order<T>(timers: &Timers<T>) {
        for position in 1..timers.heap.len() {
            assert!(!timers.heap[position].before(&timers.heap[(position - 1) / 2]));
        }
        assert!(timers.heap.len() >= timers.slots.len());
    }

    #[test]
    fn due_timers_come_by_deadline_then_by_insertion() {
        let mut timers = Timers::new();
        for (deadline, name) in [(30, 'd'), (10, 'a'), (20, 'b'), (20, 'c'), (31, 'e')] {
            timers.insert(deadline, name);
        }
        assert_eq!(timers.next_deadline(), Some(10));
        assert_eq!(timers.pop_due(9), None);
        let mut due = Vec::new();
        while let Some(name) = timers.pop_due(30) {
            due.push(name);
        }
        assert_eq!(due, ['a', 'b', 'c', 'd']);
        assert_eq!((timers.len(), timers.next_deadline()), (1, Some(31)));
        assert_eq!(timers.pop_due(u64::MAX), Some('e'));
        assert!(timers.is_empty());
        assert_eq!(timers.next_deadline(), None);
    }

    #[test]
    fn a_used_name_never_reaches_a_successor() {
        let mut timers = Timers::new();
        let first = timers.insert(5, "first");
        assert_eq!(timers.cancel(first), Some("first"));
        let second = timers.insert(5, "second");
        assert_eq!(second.slot, first.slot);
        assert_eq!(timers.cancel(first), None);
        assert_eq!(timers.pop_due(5), Some("second"));
        assert_eq!(timers.cancel(second), None);
        let third = timers.insert(6, "third");
        assert_eq!(timers.clear(), ["third"]);
        timers.insert(6, "fourth");
        assert_eq!(timers.cancel(third), None);
        assert_eq!(timers.iter().copied().collect::<Vec<_>>(), ["fourth"]);
    }

    #[test]
    fn timers_behave_as_a_sorted_vector() {
        let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
        let mut timers = Timers::new();
        let mut model: Vec<(u64, u64, TimerId)> = Vec::new();
        let mut used = Vec::new();
        let mut now = 0;
        for payload in 0..20_000 {
            // Seasons of growth, of cancelling and of time passing, so that sweeps happen too.
            match (numbers.below(10) + payload / 2_000) % 10 {
                0..=3 => {
                    let deadline = now + numbers.below(50);
                    let id = timers.insert(deadline, payload);
                    let place = model.partition_point(|timer| timer.0 <= deadline);
                    model.insert(place, (deadline, payload, id));
                }
                4..=6 if !model.is_empty() => {
                    let victim = numbers.below(model.len() as u64) as usize;
                    let (_, expected, id) = model.remove(victim);
                    assert_eq!(timers.cancel(id), Some(expected));
                    used.push(id);
                }
                7 if !used.is_empty() => {
                    let stale = used[numbers.below(used.len() as u64) as usize];
                    assert_eq!(timers.cancel(stale), None);
                }
                8 => {
                    now += numbers.below(3);
                    while model.first().is_some_and(|timer| timer.0 <= now) {
                        let (_, expected, id) = model.remove(0);
                        assert_eq!(timers.pop_due(now), Some(expected));
                        used.push(id);
                    }
                    assert_eq!(timers.pop_due(now), None);
                }
                _ => {
                    let expected = model.first().map(|timer| timer.0);
                    assert_eq!(timers.next_deadline(), expected);
                }
            }
            assert_eq!(timers.len(), model.len());
            if payload % 64 == 0 {
                assert_heap_order(&timers);
            }
        }
        let mut left: Vec<u64> = timers.iter().copied().collect();
        left.sort_unstable();
        let mut expected: Vec<u64> = model.iter().map(|timer| timer.1).collect();
        expected.sort_unstable();
        assert_eq!(left, expected);
    }

    #[test]
    fn cancelled_entries_never_outgrow_the_live_ones_for_long() {
        let mut timers = Timers::new();
        let ids: Vec<_> = (0..10_000).map(|number| timers.insert(number, number)).collect();
        for id in &ids[..9_900] {
            assert!(timers.cancel(*id).is_some());
            let cancelled = timers.heap.len() - timers.len();
            assert!(cancelled <= SWEEP_ABOVE.max(timers.heap.len() / 2));
        }
        assert_heap_order(&timers);
        assert_eq!((timers.len(), timers.next_deadline()), (100, Some(9_900)));
    }

    #[test]
    fn set_far_away_and_cancelled_soon_leaves_nothing_and_allocates_nothing() {
        let mut timers = Timers::new();
        timers.insert(1, 0);
        let id = timers.insert(1_000, 1);
        timers.cancel(id);
        let before = (timers.heap.capacity(), timers.slots.capacity());
        for number in 0..1_000 {
            let id = timers.insert(1_000 + number, 1);
            assert_eq!(timers.cancel(id), Some(1));
            assert_eq!(timers.heap.len(), 1);
        }
        assert_eq!((timers.heap.capacity(), timers.slots.capacity()), before);
    }

    #[test]
    fn names_are_small() {
        assert!(size_of::<TimerId>() <= 16);
        assert!(size_of::<Entry>() <= 24);
    }
}
