//! How a loop shows that it comes on, and how an observer tells that it does not.
//! The loop's thread beats before whatever it runs, and rests while it waits in the kernel; an
//! observer looks from time to time. Stalls are counted in looks, never read from a clock: when the
//! whole process was stopped, nobody looked, and nobody is blamed. Nothing here starts a thread.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many samples of one stall are kept.
const SAMPLES_KEPT: usize = 8;

/// A place in a program: one line of a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file's name, as the program's code has it.
    pub file: String,
    /// The line; zero where it is not known.
    pub line: u32,
    /// The function's name.
    pub function: String,
}

/// Where a thread was at one moment of a stall.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// How long it had not come on by then.
    pub after: Duration,
    /// Its stack, innermost first; empty if it could not be had.
    pub stack: Vec<Place>,
}

/// A beat that took too long.
#[derive(Debug, Default)]
pub struct Stall {
    /// How long, as far as the observer saw it.
    pub lasted: Duration,
    /// The beat that was noted last, and how long those before it lasted: a turn may have several.
    beats: u64,
    before: Duration,
    /// Where the thread was meanwhile, oldest first.
    pub samples: Vec<Sample>,
}

/// The counter of one loop. Only the loop's thread beats, rests and wakes.
#[derive(Debug, Default)]
pub struct Pulse {
    /// Odd while the loop waits in the kernel.
    beats: AtomicU64,
    thread: AtomicI32,
    /// Nanoseconds; zero when nobody wants to know.
    threshold: AtomicU64,
    has_stall: AtomicBool,
    stall: Mutex<Stall>,
}

impl Pulse {
    /// The loop begins to run something.
    #[inline]
    pub fn beat(&self) {
        self.add(2);
    }

    /// The loop is about to wait for the kernel.
    #[inline]
    pub fn rest(&self) {
        self.add(1);
    }

    /// The wait is over.
    #[inline]
    pub fn wake(&self) {
        self.add(1);
    }

    /// One thread writes, so no read-modify-write instruction is needed.
    #[inline]
    fn add(&self, count: u64) {
        self.beats.store(self.beats.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
    }

    /// The counter.
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }

    /// The kernel's number of the thread that runs the loop.
    pub fn thread(&self) -> i32 {
        self.thread.load(Ordering::Relaxed)
    }

    /// The loop runs in this thread from now on.
    pub fn set_thread(&self, thread: i32) {
        self.thread.store(thread, Ordering::Relaxed);
    }

    /// How long one beat may take; zero means as long as it likes.
    pub fn threshold(&self) -> Duration {
        Duration::from_nanos(self.threshold.load(Ordering::Relaxed))
    }

    /// Sets how long one beat may take.
    pub fn set_threshold(&self, threshold: Duration) {
        let nanoseconds = u64::try_from(threshold.as_nanos()).unwrap_or(u64::MAX);
        self.threshold.store(nanoseconds, Ordering::Relaxed);
    }

    /// Whether a stall was seen and not taken: asked by the loop in every turn.
    #[inline]
    pub fn has_stall(&self) -> bool {
        self.has_stall.load(Ordering::Relaxed)
    }

    /// The stall that was seen; by the loop, which has come on.
    pub fn take_stall(&self) -> Option<Stall> {
        let mut stall = self.lock();
        self.has_stall.store(false, Ordering::Relaxed);
        let taken = mem::take(&mut *stall);
        (!taken.samples.is_empty()).then_some(taken)
    }

    /// Notes where the thread was; by the observer, unless the loop has come on since `beats`.
    pub fn note(&self, beats: u64, sample: Sample) {
        let mut stall = self.lock();
        if self.beats() != beats {
            return;
        }
        if stall.beats != beats {
            (stall.beats, stall.before) = (beats, stall.lasted);
        }
        stall.lasted = stall.before + sample.after;
        if stall.samples.len() < SAMPLES_KEPT {
            stall.samples.push(sample);
        }
        self.has_stall.store(true, Ordering::Relaxed);
    }

    /// Notes that a stall goes on.
    pub fn prolong(&self, beats: u64, lasted: Duration) {
        let mut stall = self.lock();
        if self.beats() == beats && stall.beats == beats && !stall.samples.is_empty() {
            stall.lasted = stall.before + lasted;
        }
    }

    /// Each change to a stall leaves it whole, so a poisoned lock has nothing broken behind it.
    fn lock(&self) -> MutexGuard<'_, Stall> {
        self.stall.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an observer makes of one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The loop has come on since the last look.
    Moving,
    /// The loop waits in the kernel.
    Resting,
    /// It has not come on.
    Still,
    /// It has not come on for so long that somebody should see where it is.
    Sample,
    /// It has not come on for so long that somebody should be told at once.
    Alarm,
}

/// What was seen of one loop so far.
#[derive(Debug, Default)]
pub struct Observer {
    seen: u64,
    still: Duration,
    /// When the next sample is due.
    next_sample: Duration,
    alarmed: bool,
    excused: bool,
}

impl Observer {
    /// Looks once more, `tick` after the last look.
    ///
    /// A stall is sampled when it reaches the threshold, and again each time it has doubled; the
    /// alarm comes once, at one and a half thresholds.
    pub fn look(&mut self, beats: u64, tick: Duration, threshold: Duration) -> Verdict {
        if beats != self.seen || !beats.is_multiple_of(2) {
            *self = Observer { seen: beats, next_sample: threshold, ..Observer::default() };
            return if beats.is_multiple_of(2) { Verdict::Moving } else { Verdict::Resting };
        }
        self.still += tick;
        if self.excused || threshold.is_zero() {
            return Verdict::Still;
        }
        if self.still >= self.next_sample {
            self.next_sample = self.still * 2;
            return Verdict::Sample;
        }
        if !self.alarmed && self.still * 2 >= threshold * 3 {
            self.alarmed = true;
            return Verdict::Alarm;
        }
        Verdict::Still
    }

    /// How long the loop has not come on.
    pub fn still(&self) -> Duration {
        self.still
    }

    /// This beat may take as long as it likes: somebody sits at a debugger.
    pub fn excuse(&mut self) {
        self.excused = true;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const TICK: Duration = Duration::from_millis(10);
    const THRESHOLD: Duration = Duration::from_millis(40);

    fn looks(observer: &mut Observer, pulse: &Pulse, count: usize) -> Vec<Verdict> {
        (0..count).map(|_| observer.look(pulse.beats(), TICK, THRESHOLD)).collect()
    }

    #[test]
    fn a_loop_that_beats_or_rests_is_never_sampled() {
        let (pulse, mut observer) = (Pulse::default(), Observer::default());
        for _ in 0..20 {
            pulse.beat();
            assert_eq!(looks(&mut observer, &pulse, 1), [Verdict::Moving]);
        }
        pulse.rest();
        assert_eq!(looks(&mut observer, &pulse, 20), [Verdict::Resting; 20]);
        pulse.wake();
        assert_eq!(looks(&mut observer, &pulse, 1), [Verdict::Moving]);
    }

    #[test]
    fn a_stall_is_sampled_at_the_threshold_and_whenever_it_has_doubled() {
        let (pulse, mut observer) = (Pulse::default(), Observer::default());
        pulse.beat();
        let verdicts = looks(&mut observer, &pulse, 34);
        let at =
            |wanted| -> Vec<usize> { (0..34).filter(|&look| verdicts[look] == wanted).collect() };
        assert_eq!(at(Verdict::Sample), [4, 8, 16, 32]);
        assert_eq!(at(Verdict::Alarm), [6]);
        assert_eq!(at(Verdict::Moving), [0]);
        assert_eq!(observer.still(), TICK * 33);
        pulse.beat();
        assert_eq!(looks(&mut observer, &pulse, 5).pop(), Some(Verdict::Sample));
    }

    #[test]
    fn an_excused_beat_is_left_alone_and_the_next_is_not() {
        let (pulse, mut observer) = (Pulse::default(), Observer::default());
        pulse.beat();
        looks(&mut observer, &pulse, 5);
        observer.excuse();
        assert_eq!(looks(&mut observer, &pulse, 40), [Verdict::Still; 40]);
        pulse.beat();
        assert!(looks(&mut observer, &pulse, 5).contains(&Verdict::Sample));
    }

    #[test]
    fn without_a_threshold_nothing_is_sampled() {
        let (pulse, mut observer) = (Pulse::default(), Observer::default());
        pulse.beat();
        let verdicts: Vec<_> =
            (0..50).map(|_| observer.look(pulse.beats(), TICK, Duration::ZERO)).collect();
        assert!(!verdicts.contains(&Verdict::Sample) && !verdicts.contains(&Verdict::Alarm));
    }

    #[test]
    fn a_stall_is_taken_once_with_its_samples() {
        let pulse = Pulse::default();
        pulse.beat();
        assert!(pulse.take_stall().is_none());
        let place = Place { file: "a.py".to_owned(), line: 3, function: "f".to_owned() };
        pulse.note(pulse.beats(), Sample { after: TICK, stack: vec![place.clone()] });
        pulse.prolong(pulse.beats(), TICK * 3);
        assert!(pulse.has_stall());
        let stall = pulse.take_stall().unwrap();
        assert_eq!((stall.lasted, stall.samples.len()), (TICK * 3, 1));
        assert_eq!(stall.samples[0].stack, [place]);
        assert!(!pulse.has_stall() && pulse.take_stall().is_none());
    }

    #[test]
    fn a_beat_that_follows_a_stall_in_the_same_turn_neither_shortens_nor_prolongs_it() {
        let pulse = Pulse::default();
        pulse.beat();
        pulse.note(pulse.beats(), Sample { after: TICK * 4, stack: Vec::new() });
        pulse.beat();
        pulse.prolong(pulse.beats(), TICK);
        assert_eq!(pulse.lock().lasted, TICK * 4);
        pulse.note(pulse.beats(), Sample { after: TICK * 5, stack: Vec::new() });
        pulse.prolong(pulse.beats(), TICK * 6);
        assert_eq!(pulse.take_stall().unwrap().lasted, TICK * 10);
    }

    #[test]
    fn what_is_seen_too_late_is_not_noted() {
        let pulse = Pulse::default();
        pulse.beat();
        let seen = pulse.beats();
        pulse.beat();
        pulse.note(seen, Sample { after: TICK, stack: Vec::new() });
        pulse.prolong(seen, TICK);
        assert!(!pulse.has_stall());
    }

    #[test]
    fn the_samples_of_one_stall_are_bounded() {
        let pulse = Pulse::default();
        for count in 1..100 {
            pulse.note(0, Sample { after: TICK * count, stack: Vec::new() });
        }
        let stall = pulse.take_stall().unwrap();
        assert_eq!((stall.samples.len(), stall.lasted), (SAMPLES_KEPT, TICK * 99));
    }
}
