//! `Follower`: who counts the ends of several futures, with no Python callback for each of them.
//!
//! `gather` and `TaskGroup` follow their children. A child that is done queues one entry of the
//! ready queue, in the place where asyncio's callback would stand, so that everything happens in
//! the turn in which it happens there.

use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::{PyTraverseError, intern};

use super::Task;
use super::gathering::Gathering;
use super::groups::BaseTaskGroup;
use crate::cpython::context;
use crate::event_loop::callback::Callback;
use crate::event_loop::home::Home;
use crate::event_loop::{BaseEventLoop, report, schedule};
use crate::futures::{DoneCallback, Future, Phase, completion};

/// Who wants to know: a closed list.
pub enum Follower {
    /// `gather`.
    Gathering(Py<Gathering>),
    /// A task group, which calls the child by this number.
    Group(Py<BaseTaskGroup>, u32),
}

impl Follower {
    /// A second reference to the same follower.
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Follower::Gathering(it) => Follower::Gathering(it.clone_ref(py)),
            Follower::Group(group, number) => Follower::Group(group.clone_ref(py), *number),
        }
    }

    /// Whether both are the same follower.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Follower::Gathering(one), Follower::Gathering(two)) => one.is(two),
            (Follower::Group(one, first), Follower::Group(two, second)) => {
                one.is(two) && first == second
            }
            _ => false,
        }
    }

    /// Shows it to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Follower::Gathering(it) => visit.call(it),
            Follower::Group(group, _) => visit.call(group),
        }
    }

    /// Has itself told when `child` is done. A child that is done already is told of soon, too.
    pub fn follow(self, child: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Some(future) = native(child) {
            return completion::add_callback(&future, DoneCallback::Follow(self));
        }
        let py = child.py();
        let callback = Py::new(py, ChildDone { follower: self })?;
        child.call_method1(intern!(py, "add_done_callback"), (callback,)).map(drop)
    }

    /// `child` is done: its follower hears of it in the next turn.
    pub fn queue(self, child: &Bound<'_, Future>) -> PyResult<()> {
        let py = child.py();
        let home = child.get().home(py)?;
        if let Home::Native(event_loop) = &home {
            let event_loop = event_loop.bind(py);
            let flags = event_loop.get().flags(py);
            if !flags.call_soon_replaced {
                flags.check()?;
                if flags.debug {
                    schedule::check_thread(event_loop)?;
                }
                let ended = Ended { follower: self, child: child.clone().unbind() };
                event_loop.get().push(py, Callback::Follow(Box::new(ended)));
                return Ok(());
            }
        }
        let callback = Py::new(py, ChildDone { follower: self })?.into_any();
        let context = context::copy_current(py)?;
        schedule::call_with(py, &home, callback, child.as_any(), context)
    }

    fn tell(&self, child: &Bound<'_, PyAny>) -> PyResult<()> {
        match self {
            Follower::Gathering(it) => Gathering::child_done(it.bind(child.py()), child),
            Follower::Group(it, number) => {
                BaseTaskGroup::child_done(it.bind(child.py()), *number, child)
            }
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Follower::Gathering(_) => "gather.child_done",
            Follower::Group(..) => "TaskGroup._on_task_done",
        }
    }
}

/// The future behind `object`, if its class is ours and no subclass changed its ways.
#[inline]
pub fn native<'py>(object: &Bound<'py, PyAny>) -> Option<Bound<'py, Future>> {
    if let Ok(task) = object.cast_exact::<Task>() {
        return Some(task.as_super().clone());
    }
    if let Ok(future) = object.cast_exact::<Future>() {
        return Some(future.clone());
    }
    object.cast_exact::<Gathering>().ok().map(|gathering| gathering.as_super().clone())
}

/// What became of a child.
pub enum Ending {
    /// It was cancelled.
    Cancelled,
    /// Its exception, which counts as retrieved.
    Failed(Py<PyAny>),
    /// It has a result.
    Succeeded,
}

/// Looks at a child that is done, as `cancelled()` and `exception()` do.
pub fn ending(child: &Bound<'_, PyAny>) -> PyResult<Ending> {
    let py = child.py();
    if let Some(future) = native(child) {
        let (phase, failed) =
            future.get().state.with(py, |state| (state.phase, state.exception.is_some()));
        return Ok(match phase {
            Phase::Cancelled => Ending::Cancelled,
            _ if !failed => Ending::Succeeded,
            _ => match completion::take_outcome(&future) {
                Ok(_) => Ending::Succeeded,
                Err(error) => Ending::Failed(error),
            },
        });
    }
    if child.call_method0(intern!(py, "cancelled"))?.is_truthy()? {
        return Ok(Ending::Cancelled);
    }
    let error = child.call_method0(intern!(py, "exception"))?;
    Ok(if error.is_none() { Ending::Succeeded } else { Ending::Failed(error.unbind()) })
}

/// `done()`.
#[inline]
pub fn is_done(child: &Bound<'_, PyAny>) -> PyResult<bool> {
    match native(child) {
        Some(future) => Ok(future.get().phase(child.py()) != Phase::Pending),
        None => child.call_method0(intern!(child.py(), "done"))?.is_truthy(),
    }
}

/// An entry of the ready queue: a child is done, and who wants to know.
pub struct Ended {
    follower: Follower,
    child: Py<Future>,
}

impl Ended {
    /// Tells the follower.
    pub fn tell(self, event_loop: &Bound<'_, BaseEventLoop>) -> PyResult<()> {
        let child = self.child.into_bound(event_loop.py());
        match self.follower.tell(child.as_any()) {
            Ok(()) => Ok(()),
            Err(error) => report::unless_exit(event_loop, error, |error| {
                let about = ("future", child.as_any());
                report::callback_failed(event_loop, self.follower.name(), about, error)
            }),
        }
    }

    /// Shows the entry to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.follower.traverse(visit)?;
        visit.call(&self.child)
    }
}

/// The follower as a callable: for futures of others, and for loops of others.
#[pyclass(frozen, module = "aioxide")]
pub struct ChildDone {
    follower: Follower,
}

impl ChildDone {
    /// A callable that tells `follower` of the future it is called with.
    pub fn callable(py: Python<'_>, follower: Follower) -> PyResult<Py<PyAny>> {
        Ok(Py::new(py, ChildDone { follower })?.into_any())
    }
}

#[pymethods]
impl ChildDone {
    #[pyo3(signature = (future, /))]
    fn __call__(&self, future: &Bound<'_, PyAny>) -> PyResult<()> {
        self.follower.tell(future)
    }

    #[getter]
    fn __qualname__(&self) -> &'static str {
        self.follower.name()
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.follower.traverse(&visit)
    }
}
