//! The watchdog: one thread of the process that sees when a loop does not come on, and where.
//!
//! It holds no interpreter and waits for none, so a call that keeps the interpreter to itself is
//! seen like any other. It runs while a loop runs and sleeps otherwise. The loop itself reports a
//! stall when it is over (`event_loop::report`); one that goes on is told to stderr meanwhile.

use std::env;
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use engine::pulse::{Observer, Place, Pulse, Sample, Verdict};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::cpython::stacks;

/// How long a step may take before it is reported, unless somebody says otherwise.
const THRESHOLD: Duration = Duration::from_millis(250);
/// Says otherwise for a whole process, in seconds; zero reports nothing.
const VARIABLE: &str = "AIOXIDE_STALL_THRESHOLD";

/// Looks per threshold, while a loop is at work; while all of them wait there are fewer.
const LOOKS: u32 = 8;
const LOOKS_AT_REST: u32 = 2;

const SHORTEST_TICK: Duration = Duration::from_millis(1);
const LONGEST_TICK: Duration = Duration::from_millis(25);

/// How long it goes on looking when the last loop has ended: programs that run many short loops,
/// one after the other, need not wake it for each.
const LINGER: Duration = Duration::from_millis(100);

/// Whoever sits at one of these is not a stall.
const DEBUGGERS: [&str; 4] = ["/bdb.py", "/pdb.py", "/pydevd.py", "/pydevd_frame.py"];

/// What `set_stall_threshold` accepts; None is zero, which reports nothing.
pub fn threshold(seconds: Option<f64>) -> PyResult<Duration> {
    let Some(seconds) = seconds else { return Ok(Duration::ZERO) };
    Duration::try_from_secs_f64(seconds).ok().filter(|it| !it.is_zero()).ok_or_else(|| {
        PyValueError::new_err(format!(
            "a positive number of seconds or None is expected, got {seconds}"
        ))
    })
}

/// The threshold of a loop for which the program has set none.
pub fn usual_threshold() -> Duration {
    static USUAL: OnceLock<Duration> = OnceLock::new();
    *USUAL.get_or_init(|| {
        let Some(given) = env::var_os(VARIABLE).filter(|given| !given.is_empty()) else {
            return THRESHOLD;
        };
        let seconds = given.to_str().and_then(|given| given.trim().parse().ok());
        seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_else(|| {
            let allowed = "a number of seconds, 0 to report nothing";
            let text = format!("aioxide: {VARIABLE} must be {allowed}, not {given:?}\n");
            // There is nobody to tell that nobody can be told.
            let _ = std::io::stderr().write_all(text.as_bytes());
            THRESHOLD
        })
    })
}

struct Watched {
    pulse: Arc<Pulse>,
    observer: Observer,
}

struct State {
    loops: Vec<Watched>,
    thread: Option<JoinHandle<()>>,
    /// The thread may take the lock.
    alive: bool,
    /// It waits to be called.
    asleep: bool,
    /// How many want it not to run: threads that fork, and the end of the interpreter.
    barred: u32,
}

static STATE: Mutex<State> =
    Mutex::new(State { loops: Vec::new(), thread: None, alive: false, asleep: false, barred: 0 });
static CALL: Condvar = Condvar::new();

/// Each change leaves the state whole, so a poisoned lock has nothing broken behind it.
fn lock() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A loop begins to run in this thread.
pub fn enter(py: Python<'_>, pulse: &Arc<Pulse>) {
    pulse.set_thread(rustix::thread::gettid().as_raw_nonzero().get());
    // Without a stack a stall is still seen and counted.
    let _ = stacks::prepare(py);
    let mut state = lock();
    state.loops.push(Watched { pulse: Arc::clone(pulse), observer: Observer::default() });
    start(&mut state);
}

/// The loop runs no more.
pub fn leave(pulse: &Arc<Pulse>) {
    lock().loops.retain(|watched| !Arc::ptr_eq(&watched.pulse, pulse));
}

fn start(state: &mut State) {
    if state.asleep {
        state.asleep = false;
        CALL.notify_all();
    } else if !state.alive && state.barred == 0 && !state.loops.is_empty() {
        // A process that may start no thread runs unwatched.
        let thread = thread::Builder::new().name("aioxide-watchdog".to_owned()).spawn(watch);
        state.alive = thread.is_ok();
        state.thread = thread.ok();
    }
}

/// Ends the thread and keeps it from being started: before a fork, so that the child finds no lock
/// held by a thread that it has not, and before the interpreter goes. No lock is held while the
/// interpreter is given up: another thread may fork then.
pub fn stop(py: Python<'_>) {
    let thread = {
        let mut state = lock();
        state.barred += 1;
        CALL.notify_all();
        state.thread.take()
    };
    if let Some(thread) = thread {
        // A thread that panicked is as good as one that ended.
        let _ = py.detach(|| thread.join());
    }
    // Another thread forks as well, and waits for the same end.
    while lock().alive {
        py.detach(|| thread::sleep(SHORTEST_TICK));
    }
}

/// After a fork, in the parent.
pub fn resume() {
    let mut state = lock();
    state.barred = state.barred.saturating_sub(1);
    start(&mut state);
}

/// After a fork, in the child: the loops that ran are the parent's.
pub fn note_fork() {
    let loops = {
        let mut state = lock();
        state.barred = 0;
        std::mem::take(&mut state.loops)
    };
    drop(loops);
    stacks::note_fork();
}

/// What the thread does.
fn watch() {
    let mut tick = LONGEST_TICK;
    loop {
        let mut state = lock();
        if state.loops.is_empty() {
            state = pause(state, LINGER);
            if state.loops.is_empty() && state.barred == 0 {
                state.asleep = true;
                while state.asleep && state.barred == 0 {
                    state = CALL.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                state.asleep = false;
            }
        } else {
            state = pause(state, tick);
        }
        if state.barred > 0 {
            state.alive = false;
            return;
        }
        let (next, questions) = look_around(&mut state.loops, tick);
        drop(state);
        tick = next;
        for question in questions {
            question.settle();
        }
    }
}

fn pause(state: MutexGuard<'static, State>, time: Duration) -> MutexGuard<'static, State> {
    if state.barred > 0 {
        return state;
    }
    CALL.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
}

/// A loop that does not come on, and how to find out why. Settled without the lock: a thread that
/// forks or ends a loop must not wait for it.
struct Question {
    pulse: Arc<Pulse>,
    beats: u64,
    still: Duration,
    alarm: bool,
}

/// Looks at every loop; says when to look again, and whom to ask.
fn look_around(loops: &mut [Watched], tick: Duration) -> (Duration, Vec<Question>) {
    let mut questions = Vec::new();
    let mut next = LONGEST_TICK * (LOOKS / LOOKS_AT_REST);
    for Watched { pulse, observer } in loops {
        let (beats, threshold) = (pulse.beats(), pulse.threshold());
        let verdict = observer.look(beats, tick, threshold);
        let looks = if verdict == Verdict::Resting { LOOKS_AT_REST } else { LOOKS };
        if !threshold.is_zero() {
            let longest = LONGEST_TICK * (LOOKS / looks);
            next = next.min((threshold / looks).clamp(SHORTEST_TICK, longest));
        }
        let still = observer.still();
        match verdict {
            Verdict::Moving | Verdict::Resting => {}
            Verdict::Still => pulse.prolong(beats, still),
            Verdict::Sample | Verdict::Alarm => questions.push(Question {
                pulse: Arc::clone(pulse),
                beats,
                still,
                alarm: verdict == Verdict::Alarm,
            }),
        }
    }
    (next, questions)
}

impl Question {
    fn settle(self) {
        let stack = stacks::ask(self.pulse.thread()).map(|text| places(&text)).unwrap_or_default();
        if self.pulse.beats() != self.beats {
            return;
        }
        if stack.iter().any(|place| DEBUGGERS.iter().any(|name| place.file.ends_with(name))) {
            self.excuse();
            return;
        }
        if self.alarm {
            tell(self.still, &stack);
        } else {
            self.pulse.note(self.beats, Sample { after: self.still, stack });
        }
    }

    fn excuse(self) {
        drop(self.pulse.take_stall());
        for watched in &mut lock().loops {
            if Arc::ptr_eq(&watched.pulse, &self.pulse) {
                watched.observer.excuse();
            }
        }
    }
}

/// Tells of a stall that goes on. Only stderr can be had without the interpreter.
fn tell(still: Duration, stack: &[Place]) {
    let mut text = format!(
        "aioxide: the event loop has been blocked for {:.2} seconds (most recent call last):\n",
        still.as_secs_f64()
    );
    for place in stack.iter().rev() {
        text.push_str(&format!(
            "  File \"{}\", line {}, in {}\n",
            place.file, place.line, place.function
        ));
    }
    if stack.is_empty() {
        text.push_str("  where is not known: its thread answers no signal, or leaves a function\n");
    }
    // There is nobody to tell that nobody can be told.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// The stack in `faulthandler`'s words, down to the loop.
fn places(text: &str) -> Vec<Place> {
    text.lines()
        .filter_map(|line| {
            let rest = line.strip_prefix("  File ")?;
            let (file, rest) = rest.rsplit_once(", line ")?;
            let (line, function) = rest.split_once(" in ")?;
            Some(Place {
                file: unescaped(file.trim_matches('"')),
                line: line.parse().unwrap_or(0),
                function: unescaped(function),
            })
        })
        .take_while(|place| {
            !(place.function == "run_forever" && place.file.ends_with("/aioxide/event_loop.py"))
        })
        .collect()
}

/// `faulthandler` writes what is not ASCII as `\xe9` or `\u20ac`. A backslash of the name itself is
/// written as it is, so whatever is no such sequence stays.
fn unescaped(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(start) = rest.find('\\') {
        plain.push_str(&rest[..start]);
        let sequence = &rest[start..];
        let digits = match sequence.as_bytes().get(1) {
            Some(b'x') => 2,
            Some(b'u') => 4,
            Some(b'U') => 8,
            _ => 0,
        };
        let decoded = sequence
            .get(2..2 + digits)
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .and_then(char::from_u32)
            .filter(|character| !character.is_ascii());
        match decoded {
            Some(character) => {
                plain.push(character);
                rest = &sequence[2 + digits..];
            }
            None => {
                plain.push('\\');
                rest = &sequence[1..];
            }
        }
    }
    plain.push_str(rest);
    plain
}
