//! What a loop counts of itself: `loop.metrics()`.

use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::{BaseEventLoop, clock, source};
use crate::tasks::cancellation;

/// Counters since the loop was made.
#[derive(Clone, Copy, Default)]
pub struct Tally {
    /// Rounds of the loop.
    pub turns: u64,
    /// Callbacks and steps that were run.
    pub callbacks: u64,
    /// Steps of tasks.
    pub steps: u64,
    /// Nanoseconds spent in steps, as long as that is measured.
    pub busy: u64,
    /// Steps and callbacks that took longer than the threshold, how long together, and the longest.
    pub stalls: u64,
    /// See `stalls`.
    pub stalled: Duration,
    /// See `stalls`.
    pub longest_stall: Duration,
    /// Calls of `Task.cancel`, counted for each task that they reached.
    pub cancellations: u64,
    /// Those that the task caught.
    pub cancellations_caught: u64,
    /// Those after which it went on, or ended, as if it had not been asked.
    pub cancellations_swallowed: u64,
    /// Exceptions that were reported because nobody retrieved them.
    pub unretrieved: u64,
    /// Tasks that were reported because they never finished.
    pub unfinished: u64,
    /// Transports that were open when the loop was closed.
    pub unclosed: u64,
}

/// `loop.metrics()`.
pub fn metrics<'py>(event_loop: &Bound<'py, BaseEventLoop>) -> PyResult<Bound<'py, PyDict>> {
    let py = event_loop.py();
    let (tally, tasks, ready, timers) = event_loop
        .get()
        .state
        .with(py, |state| (state.tally, state.tasks.len(), state.ready.len(), state.timers.len()));
    let answer = PyDict::new(py);
    answer.set_item("tasks", tasks)?;
    answer.set_item("ready", ready)?;
    answer.set_item("timers", timers)?;
    answer.set_item("turns", tally.turns)?;
    answer.set_item("callbacks", tally.callbacks)?;
    answer.set_item("steps", tally.steps)?;
    answer.set_item("busy_seconds", clock::as_seconds(tally.busy))?;
    answer.set_item("stalls", tally.stalls)?;
    answer.set_item("stalled_seconds", tally.stalled.as_secs_f64())?;
    answer.set_item("longest_stall_seconds", tally.longest_stall.as_secs_f64())?;
    answer.set_item("cancellations", tally.cancellations)?;
    answer.set_item("cancellations_caught", tally.cancellations_caught)?;
    answer.set_item("cancellations_swallowed", tally.cancellations_swallowed)?;
    answer.set_item("unretrieved_exceptions", tally.unretrieved)?;
    answer.set_item("unfinished_tasks", tally.unfinished)?;
    answer.set_item("unclosed_transports", tally.unclosed)?;
    Ok(answer)
}

/// `BaseEventLoop._open_transports`.
pub fn open_transports<'py>(
    event_loop: &Bound<'py, BaseEventLoop>,
) -> PyResult<Bound<'py, PyList>> {
    let py = event_loop.py();
    let list = PyList::empty(py);
    for (transport, site) in source::open_transports(event_loop) {
        list.append((transport, cancellation::described(py, site.as_ref())?))?;
    }
    Ok(list)
}
