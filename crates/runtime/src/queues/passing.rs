//! Putting and getting: who may at once, who waits, and whom that wakes.
//!
//! Each rule exists once, in terms of the five questions of [`By`]. A queue that is
//! exactly ours answers them itself; for a subclass, and for one that was given attributes, each is
//! asked by asyncio's name, because somebody may have changed what it means.

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::{LifoQueue, PriorityQueue, Queue};
use crate::cpython::imports::imports;
use crate::cpython::{calls, instances};
use crate::futures::{Future, Phase, completion};
use crate::locks::unless_closing;
use crate::locks::waiters::{self, Waiters};

/// Which of the two lines.
#[derive(Clone, Copy)]
pub enum Side {
    /// Who waits for an item.
    Getters,
    /// Who waits for a free slot.
    Putters,
}

/// Who answers for a queue: we do if every method is the one we know, otherwise its methods.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// The code below.
    Us,
    /// Whatever asyncio's name for it means.
    Name,
}

impl By {
    /// Who that is for this queue.
    #[inline]
    pub fn of(queue: &Bound<'_, Queue>) -> Self {
        let queue = queue.as_any();
        let plain = instances::is_plain::<Queue>(queue)
            || instances::is_plain::<PriorityQueue>(queue)
            || instances::is_plain::<LifoQueue>(queue);
        if plain { By::Us } else { By::Name }
    }

    #[inline]
    fn is_full(self, queue: &Bound<'_, Queue>) -> PyResult<bool> {
        match self {
            By::Us => queue.get().is_full(queue.py()),
            By::Name => calls::method0(queue, intern!(queue.py(), "full"))?.is_truthy(),
        }
    }

    #[inline]
    fn is_empty(self, queue: &Bound<'_, Queue>) -> PyResult<bool> {
        match self {
            By::Us => queue.get().items.is_empty(queue.py()),
            By::Name => calls::method0(queue, intern!(queue.py(), "empty"))?.is_truthy(),
        }
    }

    #[inline]
    fn store(self, queue: &Bound<'_, Queue>, item: &Bound<'_, PyAny>) -> PyResult<()> {
        match self {
            By::Us => queue.get().items.put(item),
            By::Name => calls::method1(queue, intern!(queue.py(), "_put"), item).map(drop),
        }
    }

    #[inline]
    fn fetch<'py>(self, queue: &Bound<'py, Queue>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            By::Us => queue.get().items.get(queue.py()),
            By::Name => calls::method0(queue, intern!(queue.py(), "_get")),
        }
    }

    #[inline]
    fn wake_next(self, queue: &Bound<'_, Queue>, side: Side) -> PyResult<()> {
        let line = queue.get().line(side);
        match self {
            By::Us => wake_next_of(queue.py(), line),
            By::Name => {
                let line = line.show(queue.py())?;
                calls::method1(queue, intern!(queue.py(), "_wakeup_next"), &line).map(drop)
            }
        }
    }

    /// `Queue.put_nowait`.
    #[inline]
    pub fn put_now(self, queue: &Bound<'_, Queue>, item: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = queue.py();
        if queue.get().is_shut(py) {
            return Err(shut_down(py));
        }
        if self.is_full(queue)? {
            return Err(raised(imports(py).queue_is_full.bind(py)));
        }
        self.store(queue, item)?;
        queue.get().count_put(py);
        self.wake_next(queue, Side::Getters)
    }

    /// `Queue.get_nowait`.
    #[inline]
    pub fn get_now<'py>(self, queue: &Bound<'py, Queue>) -> PyResult<Bound<'py, PyAny>> {
        let py = queue.py();
        if self.is_empty(queue)? {
            return Err(match queue.get().is_shut(py) {
                true => shut_down(py),
                false => raised(imports(py).queue_is_empty.bind(py)),
            });
        }
        self.take(queue)
    }

    /// The next item; there is one.
    #[inline]
    fn take<'py>(self, queue: &Bound<'py, Queue>) -> PyResult<Bound<'py, PyAny>> {
        let item = self.fetch(queue)?;
        self.wake_next(queue, Side::Putters)?;
        Ok(item)
    }
}

/// Wakes the first who is not done; whoever is passed over leaves the line.
#[inline]
fn wake_next_of(py: Python<'_>, line: &Waiters) -> PyResult<()> {
    while let Some(waiter) = line.pop(py)? {
        if !waiters::is_done(&waiter)? {
            return waiters::wake(&waiter);
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
            return waiters::wake(&waiter);
        }
    }
    Ok(())
}

/// `Queue.put` up to its next `await`: None when the item is put, otherwise the Future to wait for.
#[inline]
pub fn begin_put<'py>(
    queue: &Bound<'py, Queue>,
    item: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, Future>>> {
    let py = queue.py();
    let by = By::of(queue);
    if by.is_full(queue)? {
        if queue.get().is_shut(py) {
            return Err(shut_down(py));
        }
        return line_up(queue, Side::Putters).map(Some);
    }
    match by {
        By::Us => by.put_now(queue, item)?,
        By::Name => drop(calls::method1(queue, intern!(py, "put_nowait"), item)?),
    }
    Ok(None)
}

/// `Queue.get` up to its next `await`: the item; None when there is none.
#[inline]
pub fn begin_get<'py>(queue: &Bound<'py, Queue>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let py = queue.py();
    let by = By::of(queue);
    if by.is_empty(queue)? {
        return if queue.get().is_shut(py) { Err(shut_down(py)) } else { Ok(None) };
    }
    match by {
        By::Us => by.take(queue).map(Some),
        By::Name => calls::method0(queue, intern!(py, "get_nowait")).map(Some),
    }
}

/// A Future for one who has to wait.
pub fn line_up<'py>(queue: &Bound<'py, Queue>, side: Side) -> PyResult<Bound<'py, Future>> {
    let own = queue.get();
    own.line(side).line_up(&own.bound, queue.as_any())
}

/// The `await` of `put` or `get` raised `error`: its turn, if it was given one, is the next one's.
pub fn give_up(
    queue: &Bound<'_, Queue>,
    side: Side,
    waiter: &Bound<'_, Future>,
    error: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let py = queue.py();
    let by = By::of(queue);
    let pass_on = || -> PyResult<()> {
        completion::cancel(waiter, None)?;
        queue.get().line(side).remove(waiter)?;
        let useless = match side {
            Side::Getters => by.is_empty(queue)?,
            Side::Putters => by.is_full(queue)?,
        };
        if useless || waiter.get().phase(py) == Phase::Cancelled {
            return Ok(());
        }
        by.wake_next(queue, side)
    };
    unless_closing(error, pass_on())
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

/// `Queue.shutdown`.
pub fn shut(queue: &Bound<'_, Queue>, immediate: bool) -> PyResult<()> {
    let py = queue.py();
    queue.get().set_shut(py, true);
    if immediate {
        let by = By::of(queue);
        while !by.is_empty(queue)? {
            drop(by.fetch(queue)?);
            queue.get().count_done(py);
        }
        if queue.get().unfinished(py) == 0 {
            finish(queue)?;
        }
    }
    for side in [Side::Getters, Side::Putters] {
        while let Some(waiter) = queue.get().line(side).pop(py)? {
            if !waiters::is_done(&waiter)? {
                waiters::wake(&waiter)?;
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
