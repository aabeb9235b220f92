//! `JobQueue`: the work of the default executor, and how one of its threads takes it.
//!
//! It stands where a `ThreadPoolExecutor` has its `SimpleQueue`, so it also takes that class's own
//! work items and its None, which ends the threads. Everything is touched with the interpreter
//! held; a thread gives it up only to sleep, and a loop that waits for the outcome is woken then
//! and not before: woken earlier, it would wait for the interpreter again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};

use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use pyo3::{PyTraverseError, intern};

use crate::cpython::calls;
use crate::cpython::cell::GilCell;
use crate::cpython::imports::imports;
use crate::event_loop::BaseEventLoop;
use crate::event_loop::home::Home;
use crate::futures::delivery::{Delivery, Outcome, Parked};
use crate::futures::{Future, Phase};

/// A call whose outcome a Future of our loop waits for.
struct Job {
    function: Py<PyAny>,
    arguments: Option<Py<PyTuple>>,
    future: Py<Future>,
}

impl Job {
    /// Makes the call, unless its Future was cancelled; returns the loop to wake.
    fn run(self, py: Python<'_>) -> Option<Parked> {
        let Job { function, arguments, future } = self;
        if future.get().phase(py) != Phase::Pending {
            return None;
        }
        let called = calls::call(function.bind(py), arguments.as_ref().map(|it| it.bind(py)));
        let outcome = Outcome::of(py, called);
        // What was called may hold much; it goes before anybody learns that it is done.
        drop((function, arguments));
        Delivery::new(future, outcome).post(py)
    }
}

enum Item {
    Job(Job),
    /// A work item of `concurrent.futures`, for those who call `submit()`.
    Object(Py<PyAny>),
    /// No more work will come: whoever finds it leaves it for the others and ends.
    Stop,
}

/// Where a thread sleeps until it is called.
struct Seat {
    called: AtomicBool,
    thread: Thread,
}

#[derive(Default)]
struct Inside {
    items: VecDeque<Item>,
    /// Threads that sleep; the one that sat down last is called first, its caches are warm.
    asleep: Vec<Arc<Seat>>,
    /// Threads that were called and have not come back to look yet.
    called: usize,
    /// The threads were told to end.
    stopped: bool,
}

impl Inside {
    fn put(&mut self, item: Item) -> Option<Arc<Seat>> {
        self.stopped |= matches!(item, Item::Stop);
        self.items.push_back(item);
        let seat = self.asleep.pop();
        self.called += usize::from(seat.is_some());
        seat
    }
}

/// Calls for the threads of an executor, first in, first out.
#[pyclass(frozen, weakref, module = "aioxide._aioxide", name = "JobQueue")]
pub struct JobQueue {
    inside: GilCell<Inside>,
}

#[pymethods]
impl JobQueue {
    #[new]
    fn new() -> Self {
        JobQueue { inside: GilCell::new(Inside::default()) }
    }

    /// Queues `function(*arguments)`; returns the Future of its outcome, or None when the threads
    /// were told to end.
    fn call(
        &self,
        event_loop: &Bound<'_, BaseEventLoop>,
        function: Py<PyAny>,
        arguments: &Bound<'_, PyTuple>,
    ) -> PyResult<Option<Py<Future>>> {
        let py = event_loop.py();
        if self.inside.with(py, |inside| inside.stopped) {
            return Ok(None);
        }
        let home = Home::Native(event_loop.clone().unbind());
        let future = Py::new(py, Future::pending(py, home)?)?;
        let arguments = (!arguments.is_empty()).then(|| arguments.clone().unbind());
        let job = Job { function, arguments, future: future.clone_ref(py) };
        self.push(py, Item::Job(job));
        Ok(Some(future))
    }

    /// Queues an object with a method `run()`, or None to end the threads.
    #[pyo3(signature = (item, block = true, timeout = None))]
    fn put(&self, py: Python<'_>, item: Option<Py<PyAny>>, block: bool, timeout: Option<f64>) {
        let _ = (block, timeout);
        self.push(py, item.map_or(Item::Stop, Item::Object));
    }

    /// Takes the next item without waiting. What `call` queued is cancelled and shown as None.
    ///
    /// Raises queue.Empty when there is none.
    fn get_nowait(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        match self.inside.with(py, |inside| inside.items.pop_front()) {
            Some(Item::Object(object)) => Ok(Some(object)),
            Some(Item::Stop) => Ok(None),
            Some(Item::Job(Job { future, .. })) => {
                if let Some(parked) = Delivery::new(future, Outcome::Cancelled).post(py) {
                    parked.wake();
                }
                Ok(None)
            }
            None => Err(PyErr::from_value(imports(py).queue_empty.bind(py).call0()?)),
        }
    }

    /// How many items wait.
    fn qsize(&self, py: Python<'_>) -> usize {
        self.inside.with(py, |inside| inside.items.len())
    }

    /// Whether there is more work than threads that sleep or were called.
    fn lacks_threads(&self, py: Python<'_>) -> bool {
        self.inside.with(py, |inside| inside.items.len() > inside.called)
    }

    /// Takes back the call whose outcome `future` waits for.
    fn withdraw(&self, future: &Bound<'_, Future>) {
        let withdrawn = self.inside.with(future.py(), |inside| {
            let is_its = |item: &Item| matches!(item, Item::Job(job) if job.future.is(future));
            let index = inside.items.iter().position(is_its)?;
            inside.items.remove(index)
        });
        drop(withdrawn);
    }

    /// What a thread does: takes items until it is told to stop.
    fn work(&self, py: Python<'_>) -> PyResult<()> {
        let mut wake = None;
        loop {
            match self.next(py, &mut wake) {
                Item::Job(job) => wake = job.run(py),
                Item::Object(object) => {
                    object.bind(py).call_method0(intern!(py, "run")).map(drop)?
                }
                Item::Stop => {
                    self.push(py, Item::Stop);
                    return Ok(());
                }
            }
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let traverse = |inside: &Inside| {
            inside.items.iter().try_for_each(|item| match item {
                Item::Job(job) => {
                    visit.call(&job.function)?;
                    visit.call(&job.arguments)?;
                    visit.call(&job.future)
                }
                Item::Object(object) => visit.call(object),
                Item::Stop => Ok(()),
            })
        };
        self.inside.peek(traverse).unwrap_or(Ok(()))
    }

    fn __clear__(&self) {
        Python::attach(|py| drop(self.inside.with(py, |inside| std::mem::take(&mut inside.items))));
    }
}

impl JobQueue {
    fn push(&self, py: Python<'_>, item: Item) {
        if let Some(seat) = self.inside.with(py, |inside| inside.put(item)) {
            seat.called.store(true, Ordering::Release);
            seat.thread.unpark();
        }
    }

    /// The next item. `wake` is the loop that the thread owes a wake-up.
    fn next(&self, py: Python<'_>, wake: &mut Option<Parked>) -> Item {
        loop {
            let found = self.inside.with(py, |inside| {
                inside.items.pop_front().ok_or_else(|| {
                    let seat = Arc::new(Seat {
                        called: AtomicBool::new(false),
                        thread: thread::current(),
                    });
                    inside.asleep.push(Arc::clone(&seat));
                    seat
                })
            });
            let owed = wake.take();
            let seat = match found {
                Ok(item) => {
                    if let Some(parked) = owed {
                        parked.wake();
                    }
                    return item;
                }
                Err(seat) => seat,
            };
            py.detach(move || {
                if let Some(parked) = owed {
                    parked.wake();
                }
                while !seat.called.load(Ordering::Acquire) {
                    thread::park();
                }
            });
            self.inside.with(py, |inside| inside.called = inside.called.saturating_sub(1));
        }
    }
}
