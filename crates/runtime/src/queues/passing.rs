//! Putting and getting: who may at once, who waits, and whom that wakes.
//!
//! Each rule exists once, in terms of the five questions at the head of this file. A queue that is
//! exactly ours answers them itself; for a subclass, and for one that was given attributes, each is
//! asked by asyncio's name, because somebody may have changed what it means.

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::{LifoQueue, PriorityQueue, Queue};
use crate::coroutines::Step;
use crate::cpython::imports::imports;
use crate::cpython::{calls, instances};
use crate::futures::{Future, Phase, completion};
use crate::locks::event::Event;
use crate::locks::passed_on;
use crate::locks::waiters::{self, Waiters};

/// Which of the two lines.
#[derive(Clone, Copy)]
pub enum Side {
    /// Who waits for an item.
    Getters,
    /// Who waits for a free slot.
    Putters,
}

/// Whether every method is the one we know.
#[inline]
pub fn is_plain(queue: &Bound<'_, Queue>) -> bool {
    let queue = queue.as_any();
    instances::is_plain::<Queue>(queue)
        || instances::is_plain::<PriorityQueue>(queue)
        || instances::is_plain::<LifoQueue>(queue)
}

#[inline]
fn is_full(queue: &Bound<'_, Queue>) -> PyResult<bool> {
    if is_plain(queue) {
        return queue.get().is_full(queue.py());
    }
    calls::method0(queue, intern!(queue.py(), "full"))?.is_truthy()
}

#[inline]
fn is_empty(queue: &Bound<'_, Queue>) -> PyResult<bool> {
    if is_plain(queue) {
        return queue.get().items.is_empty(queue.py());
    }
    calls::method0(queue, intern!(queue.py(), "empty"))?.is_truthy()
}

#[inline]
fn store(queue: &Bound<'_, Queue>, item: &Bound<'_, PyAny>) -> PyResult<()> {
    if is_plain(queue) {
        return queue.get().items.put(item);
    }
    calls::method1(queue, intern!(queue.py(), "_put"), item).map(drop)
}

#[inline]
fn fetch<'py>(queue: &Bound<'py, Queue>) -> PyResult<Bound<'py, PyAny>> {
    if is_plain(queue) {
        return queue.get().items.get(queue.py());
    }
    calls::method0(queue, intern!(queue.py(), "_get"))
}

#[inline]
fn wake_next(queue: &Bound<'_, Queue>, side: Side) -> PyResult<()> {
    let line = queue.get().line(side);
    if is_plain(queue) {
        return wake_next_of(queue.py(), line);
    }
    let line = line.show(queue.py())?;
    calls::method1(queue, intern!(queue.py(), "_wakeup_next"), &line).map(drop)
}

/// Wakes the first who is not done; whoever is passed over leaves the line.
#[inline]
fn wake_next_of(py: Python<'_>, line: &Waiters) -> PyResult<()> {
    while let Some(waiter) = line.pop(py)? {
        if !waiters::is_done(&waiter)? {
            return waiters::wake(&waiter, py.None());
        }
    }
    Ok(())
}

/// `Queue._wakeup_next`, for those who call it with a deque of waiters.
pub fn wake_next_in(line: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = line.py();
    while line.is_truthy()? {
        let waiter = line.call_method0(intern!(py, "popleft"))?;
        if !waiters::is_done(&waiter)? {
            return waiters::wake(&waiter, py.None());
        }
    }
    Ok(())
}

/// `Queue.put_nowait`.
#[inline]
pub fn put_now(queue: &Bound<'_, Queue>, item: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = queue.py();
    if queue.get().is_shut(py) {
        return Err(shut_down(py));
    }
    if is_full(queue)? {
        return Err(raised(imports(py).queue_is_full.bind(py)));
    }
    store(queue, item)?;
    queue.get().count_put(py);
    wake_next(queue, Side::Getters)
}

/// `Queue.get_nowait`.
#[inline]
pub fn get_now<'py>(queue: &Bound<'py, Queue>) -> PyResult<Bound<'py, PyAny>> {
    let py = queue.py();
    if is_empty(queue)? {
        if queue.get().is_shut(py) {
            return Err(shut_down(py));
        }
        return Err(raised(imports(py).queue_is_empty.bind(py)));
    }
    let item = fetch(queue)?;
    wake_next(queue, Side::Putters)?;
    Ok(item)
}

/// `Queue.put` up to its next `await`.
#[inline]
pub fn begin_put(queue: &Bound<'_, Queue>, item: &Bound<'_, PyAny>) -> PyResult<Step> {
    let py = queue.py();
    if is_full(queue)? {
        if queue.get().is_shut(py) {
            return Err(shut_down(py));
        }
        return wait(queue, Side::Putters);
    }
    if is_plain(queue) {
        put_now(queue, item)?;
        return Ok(Step::Return(py.None()));
    }
    let told = calls::method1(queue, intern!(py, "put_nowait"), item)?;
    Ok(Step::Return(told.unbind()))
}

/// `Queue.get` up to its next `await`.
#[inline]
pub fn begin_get(queue: &Bound<'_, Queue>) -> PyResult<Step> {
    let py = queue.py();
    if is_empty(queue)? {
        if queue.get().is_shut(py) {
            return Err(shut_down(py));
        }
        return wait(queue, Side::Getters);
    }
    if is_plain(queue) {
        return Ok(Step::Return(get_now(queue)?.unbind()));
    }
    Ok(Step::Return(calls::method0(queue, intern!(py, "get_nowait"))?.unbind()))
}

fn wait(queue: &Bound<'_, Queue>, side: Side) -> PyResult<Step> {
    let py = queue.py();
    let home = queue.get().bound.enter(queue.as_any())?;
    let future = Bound::new(py, Future::pending(py, home)?)?;
    queue.get().line(side).push(&future)?;
    Ok(Step::Wait(future.unbind()))
}

/// The `await` of `put` or `get` failed: its turn, if it was given one, is the next one's.
pub fn give_up(
    queue: &Bound<'_, Queue>,
    side: Side,
    future: &Bound<'_, Future>,
    error: PyErr,
) -> PyErr {
    let py = queue.py();
    let pass_on = || -> PyResult<()> {
        completion::cancel(future, None)?;
        queue.get().line(side).remove(future)?;
        let useless = match side {
            Side::Getters => is_empty(queue)?,
            Side::Putters => is_full(queue)?,
        };
        if useless || future.get().phase(py) == Phase::Cancelled {
            return Ok(());
        }
        wake_next(queue, side)
    };
    passed_on(py, error, pass_on())
}

/// `Queue.task_done`.
pub fn task_done(queue: &Bound<'_, Queue>) -> PyResult<()> {
    let py = queue.py();
    match queue.get().count_done(py) {
        Some(0) => finish(queue),
        Some(_) => Ok(()),
        None => Err(PyValueError::new_err("task_done() called too many times")),
    }
}

/// Nothing is left to be done: whoever joins goes on.
fn finish(queue: &Bound<'_, Queue>) -> PyResult<()> {
    let py = queue.py();
    match queue.get().finished_if_asked(py) {
        Some(finished) => finished.bind(py).get().set(py),
        None => Ok(()),
    }
}

/// `Queue.join` up to its `await`.
pub fn begin_join(queue: &Bound<'_, Queue>) -> PyResult<Step> {
    let py = queue.py();
    if queue.get().unfinished(py) <= 0 {
        return Ok(Step::Return(py.None()));
    }
    match Event::begin_wait(&queue.get().finished(py)?)? {
        Step::Return(_) => Ok(Step::Return(py.None())),
        wait => Ok(wait),
    }
}

/// `Queue.join` from its `await` on.
pub fn end_join(
    queue: &Bound<'_, Queue>,
    future: &Bound<'_, Future>,
    awaited: PyResult<Py<PyAny>>,
) -> PyResult<Step> {
    let py = queue.py();
    Event::end_wait(&queue.get().finished(py)?, future, awaited)?;
    Ok(Step::Return(py.None()))
}

/// `Queue.shutdown`.
pub fn shut(queue: &Bound<'_, Queue>, immediate: bool) -> PyResult<()> {
    let py = queue.py();
    queue.get().set_shut(py, true);
    if immediate {
        while !is_empty(queue)? {
            drop(fetch(queue)?);
            queue.get().count_done(py);
        }
        if queue.get().unfinished(py) == 0 {
            finish(queue)?;
        }
    }
    for side in [Side::Getters, Side::Putters] {
        while let Some(waiter) = queue.get().line(side).pop(py)? {
            if !waiters::is_done(&waiter)? {
                waiters::wake(&waiter, py.None())?;
            }
        }
    }
    Ok(())
}

static QUEUE_SHUT_DOWN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// `QueueShutDown()`: asyncio's, or the one that stands for it before 3.13.
fn shut_down(py: Python<'_>) -> PyErr {
    let class = QUEUE_SHUT_DOWN.get_or_try_init(py, || {
        Ok::<_, PyErr>(py.import("aioxide._compat")?.getattr("QueueShutDown")?.unbind())
    });
    match class {
        Ok(class) => raised(class.bind(py)),
        Err(error) => error,
    }
}

fn raised(class: &Bound<'_, PyAny>) -> PyErr {
    match class.call0() {
        Ok(instance) => PyErr::from_value(instance),
        Err(error) => error,
    }
}
