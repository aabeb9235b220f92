//! One turn of the loop: wait, hand out, collect, run. START READING HERE.
//!
//! Invariants:
//! - Readiness is level-triggered, as `add_reader` promises.
//! - A token carries a generation: nobody receives a predecessor's readiness.
//! - What is pushed while callbacks run waits for the next turn.
//! - The interpreter is given up only where the wait may block.
//! - While callbacks are ready, the kernel is asked at least every [`CALLBACKS_BETWEEN_POLLS`]
//!   callbacks or [`NANOSECONDS_BETWEEN_POLLS`], whichever comes first, and not in every turn.

use std::io;
use std::time::Duration;

use engine::poller::{Events, Readiness};
use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::prelude::*;

use super::callback::Callback;
use super::mailbox::Posted;
use super::source::Source;
use super::state::Kernel;
use super::{BaseEventLoop, clock, report, watch};
use crate::children::Child;
use crate::cpython::detached;
use crate::cpython::imports::imports;
use crate::errors;
use crate::handles::Handle;
use crate::tasks::step;
use crate::tasks::timeouts::Timeout;
use crate::transports::Transport;
use crate::transports::listener::Listener;
use crate::watchdog;

/// A turn costs about 0.3 µs more when it asks the kernel. After so many callbacks that is noise.
const CALLBACKS_BETWEEN_POLLS: usize = 256;

/// How late readiness may be noticed while callbacks are ready.
const NANOSECONDS_BETWEEN_POLLS: u64 = 100_000;

/// How many reports one wait takes. With many connections ready, a wait that takes them all sends
/// their answers in one burst, and the slowest answer comes after twice the median time; in
/// portions of 32 the p99 of 100 busy connections fell from 1.45 to 0.9 ms, at the same cost.
const EVENTS_PER_WAIT: usize = 32;

/// Turns until `stop()`, or until `SystemExit` or `KeyboardInterrupt` leaves a callback.
pub fn run(event_loop: &Bound<'_, BaseEventLoop>) -> PyResult<()> {
    let py = event_loop.py();
    let kernel = event_loop.get().kernel(py)?;
    let thread: u64 = imports(py).get_ident.bind(py).call0()?.extract()?;
    event_loop.get().state.with(py, |state| {
        state.flags.running = true;
        state.thread = Some(thread);
    });
    watchdog::enter(py, &kernel.pulse);
    let outcome = turns(event_loop, &kernel);
    watchdog::leave(&kernel.pulse);
    event_loop.get().state.with(py, |state| {
        state.flags.running = false;
        state.stopping = false;
        state.thread = None;
    });
    outcome.and(report::stalled(event_loop, &kernel.pulse))
}

fn turns(event_loop: &Bound<'_, BaseEventLoop>, kernel: &Kernel) -> PyResult<()> {
    let py = event_loop.py();
    let mut events = Events::new(EVENTS_PER_WAIT);
    let mut posted = Vec::new();
    event_loop.get().tick(py);
    loop {
        wait(event_loop, kernel, &mut events)?;
        hand_out(event_loop, &events)?;
        collect(event_loop, kernel, &mut posted)?;
        run_ready(event_loop, kernel)?;
        if event_loop.get().state.with(py, |state| state.stopping) {
            return Ok(());
        }
    }
}

/// `_run_once`: one turn of a loop that does not run, for those who drive it by hand.
pub fn once(event_loop: &Bound<'_, BaseEventLoop>) -> PyResult<()> {
    let py = event_loop.py();
    let kernel = event_loop.get().kernel(py)?;
    let mut events = Events::new(EVENTS_PER_WAIT);
    event_loop.get().tick(py);
    wait(event_loop, &kernel, &mut events)?;
    hand_out(event_loop, &events)?;
    collect(event_loop, &kernel, &mut Vec::new())?;
    run_ready(event_loop, &kernel)
}

/// Whether and how long this turn waits.
enum Wait {
    /// Work is ready and the kernel was asked a moment ago.
    Skip,
    /// Work is ready: look, do not block.
    Look,
    /// Nothing to do before the first deadline, if there is one.
    Block(Option<u64>),
}

fn wait(
    event_loop: &Bound<'_, BaseEventLoop>,
    kernel: &Kernel,
    events: &mut Events,
) -> PyResult<()> {
    let py = event_loop.py();
    let plan = event_loop.get().state.with(py, |state| {
        if state.ready.is_empty() && !state.stopping {
            return Wait::Block(state.timers.next_deadline());
        }
        let fresh = state.callbacks_since_poll < CALLBACKS_BETWEEN_POLLS
            && state.now.saturating_sub(state.polled_at) < NANOSECONDS_BETWEEN_POLLS;
        if fresh && !state.stopping { Wait::Skip } else { Wait::Look }
    });
    let timeout = match plan {
        Wait::Skip => {
            events.clear();
            return Ok(());
        }
        Wait::Look => Some(Duration::ZERO),
        Wait::Block(None) => None,
        Wait::Block(Some(deadline)) => {
            let now = event_loop.get().now(py);
            Some(clock::time_until(event_loop, now, deadline)?)
        }
    };
    if timeout != Some(Duration::ZERO) {
        // In a forked child nothing would end the wait.
        event_loop.get().check_not_forked(py)?;
    }
    let may_block = timeout != Some(Duration::ZERO)
        && kernel.mailbox.prepare_to_wait()
        // A replaced `loop.time` is Python code: another thread may have queued something.
        && event_loop.get().state.with(py, |state| state.ready.is_empty());
    let answer = if !may_block {
        kernel.mailbox.finish_wait();
        kernel.poller.wait(events, Some(Duration::ZERO))
    } else {
        kernel.pulse.rest();
        let answer = detached::wait(py, &kernel.poller, events, timeout);
        kernel.pulse.wake();
        kernel.mailbox.finish_wait();
        answer
    };
    let now = event_loop.get().tick(py);
    event_loop.get().state.with(py, |state| {
        state.polled_at = now;
        state.callbacks_since_poll = 0;
    });
    match answer {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::Interrupted => events.clear(),
        Err(error) => return Err(errors::from_io(&error)),
    }
    event_loop.get().check_not_forked(py)?;
    // Python's own handlers (Ctrl-C) run here: no bytecode may run for a long while.
    py.check_signals()
}

/// Readiness is queued behind what was queued before, and ahead of due timers, as asyncio does it:
/// a task that was made to change a transport's protocol runs before the bytes that arrived since.
fn hand_out(event_loop: &Bound<'_, BaseEventLoop>, events: &Events) -> PyResult<()> {
    let py = event_loop.py();
    for readiness in events.iter() {
        let is_watch = event_loop.get().state.with(py, |state| {
            let is_watch = match state.sources.get(readiness.token)?.source {
                Source::Mailbox => return None,
                Source::Watch(_) => true,
                Source::Transport(_) | Source::Listener(_) | Source::Child(_) => false,
            };
            if !is_watch {
                state.ready.push_back(Callback::Ready(readiness));
            }
            Some(is_watch)
        });
        if is_watch == Some(true) {
            watch::on_ready(event_loop, readiness)?;
        }
    }
    Ok(())
}

/// Readiness reaches whoever registered for it, unless he left meanwhile.
#[inline]
fn ready(event_loop: &Bound<'_, BaseEventLoop>, readiness: Readiness) -> PyResult<()> {
    enum Receiver {
        Transport(Transport),
        Listener(Py<Listener>),
        Child(Py<Child>),
    }
    let py = event_loop.py();
    let receiver = event_loop.get().state.with(py, |state| {
        Some(match &state.sources.get(readiness.token)?.source {
            Source::Transport(it) => Receiver::Transport(it.clone_ref(py)),
            Source::Listener(listener) => Receiver::Listener(listener.clone_ref(py)),
            Source::Child(child) => Receiver::Child(child.clone_ref(py)),
            Source::Watch(_) | Source::Mailbox => return None,
        })
    });
    match receiver {
        Some(Receiver::Transport(transport)) => transport.on_ready(event_loop, readiness),
        Some(Receiver::Listener(listener)) => Listener::on_ready(listener.bind(py), event_loop),
        Some(Receiver::Child(child)) => Child::on_ready(child.bind(py), event_loop),
        None => Ok(()),
    }
}

/// What other threads posted and what is due goes to the ready queue.
fn collect(
    event_loop: &Bound<'_, BaseEventLoop>,
    kernel: &Kernel,
    posted: &mut Vec<Posted>,
) -> PyResult<()> {
    let py = event_loop.py();
    if kernel.pulse.has_stall() {
        report::stalled(event_loop, &kernel.pulse)?;
    }
    if !kernel.mailbox.is_empty_hint() {
        kernel.mailbox.take(posted);
        for item in posted.drain(..) {
            match item {
                Posted::Finish(finished) => finished.deliver(py)?,
            }
        }
    }
    let clock = event_loop
        .get()
        .state
        .with(py, |state| state.timers.next_deadline().map(|deadline| (deadline, state.now)));
    let Some((deadline, clock)) = clock else { return Ok(()) };
    let now = clock::instant(clock::timer_now(event_loop, clock)?);
    if deadline > now {
        return Ok(());
    }
    while let Some(timer) = event_loop.get().state.with(py, |state| state.timers.pop_due(now)) {
        event_loop.get().push(py, timer.become_due(py));
    }
    Ok(())
}

/// Runs exactly what was ready when it began; what that queues waits for the next turn.
fn run_ready(event_loop: &Bound<'_, BaseEventLoop>, kernel: &Kernel) -> PyResult<()> {
    let py = event_loop.py();
    let count = event_loop.get().state.with(py, |state| {
        let count = state.ready.len();
        state.callbacks_since_poll += count;
        state.tally.turns += 1;
        state.tally.callbacks += count as u64;
        count
    });
    let mut clock_is_fresh = true;
    let mut outcome = Ok(());
    for _ in 0..count {
        let next = event_loop
            .get()
            .state
            .with(py, |state| Some((state.ready.pop_front()?, state.flags.debug)));
        let Some((callback, debug)) = next else { break };
        clock_is_fresh = matches!(callback, Callback::Step(_));
        kernel.pulse.beat();
        outcome =
            if debug { report::timed(event_loop, callback) } else { run_one(event_loop, callback) };
        if outcome.is_err() {
            break;
        }
    }
    BaseEventLoop::clear_stale(event_loop)?;
    if !clock_is_fresh {
        event_loop.get().tick_sometimes(py);
    }
    outcome
}

#[inline]
fn run_one(event_loop: &Bound<'_, BaseEventLoop>, callback: Callback) -> PyResult<()> {
    match callback {
        Callback::Step(task) => step_task(event_loop, task),
        other => run_call(event_loop, other),
    }
}

#[inline]
fn step_task(event_loop: &Bound<'_, BaseEventLoop>, task: Py<crate::tasks::Task>) -> PyResult<()> {
    let task = task.into_bound(event_loop.py());
    match step::run(event_loop, &task) {
        Ok(()) => Ok(()),
        Err(error) => report::unless_exit(event_loop, error, |error| {
            report::step_failed(event_loop, &task, error)
        }),
    }
}

/// Runs an entry that is not a step.
pub fn run_call(event_loop: &Bound<'_, BaseEventLoop>, callback: Callback) -> PyResult<()> {
    let py = event_loop.py();
    BaseEventLoop::clear_stale(event_loop)?;
    match callback {
        Callback::Call(handle) => {
            let handle = handle.into_bound(py);
            let outcome = Handle::run_once(&handle, event_loop);
            reported(event_loop, &handle, outcome)
        }
        Callback::Fire(handle) => {
            let handle = handle.into_bound(py);
            let outcome = Handle::run(&handle);
            reported(event_loop, &handle, outcome)
        }
        Callback::Step(task) => step_task(event_loop, task),
        Callback::Begin(transport) => transport.begin(py),
        Callback::End(transport) => transport.end(event_loop),
        Callback::Deliver(delivery) => delivery.deliver(py),
        Callback::Follow(ended) => ended.tell(event_loop),
        Callback::Expire(timeout) => Timeout::run_due(timeout.bind(py), event_loop),
        Callback::Ready(readiness) => ready(event_loop, readiness),
    }
}

#[inline]
fn reported(
    event_loop: &Bound<'_, BaseEventLoop>,
    handle: &Bound<'_, Handle>,
    outcome: PyResult<()>,
) -> PyResult<()> {
    match outcome {
        Ok(()) => Ok(()),
        Err(error) => report::unless_exit(event_loop, error, |error| {
            report::handle_failed(event_loop.as_any(), handle, error)
        }),
    }
}

/// `SystemExit` and `KeyboardInterrupt` leave the loop; anything else is reported to it.
pub fn is_exit(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py)
}
