//! What a future knows: its phase, its outcome, and who waits for it.

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::types::PyContext;

use crate::event_loop::home::Home;
use crate::tasks::Task;
use crate::tasks::followers::Follower;

/// Where a future is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Phase {
    /// No outcome yet.
    #[default]
    Pending,
    /// Cancelled, for good.
    Cancelled,
    /// It has a result or an exception.
    Finished,
}

/// What happens when a future is done.
pub enum DoneCallback {
    /// A native task awaits it: its next step is queued, with no callable and no Handle between.
    Wake(Py<Task>),
    /// Somebody called `add_done_callback`.
    Call {
        /// Called with the future.
        callback: Py<PyAny>,
        /// What it runs in.
        context: Py<PyContext>,
    },
    /// The concurrent future whose outcome this one waits for: cancelled when this one is.
    Back(Py<PyAny>),
    /// Somebody counts the ends of several futures, this one among them.
    Follow(Follower),
}

impl DoneCallback {
    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            DoneCallback::Wake(task) => visit.call(task),
            DoneCallback::Call { callback, context } => {
                visit.call(callback)?;
                visit.call(context)
            }
            DoneCallback::Back(source) => visit.call(source),
            DoneCallback::Follow(follower) => follower.traverse(visit),
        }
    }

    /// A second reference to the same callback.
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            DoneCallback::Wake(task) => DoneCallback::Wake(task.clone_ref(py)),
            DoneCallback::Call { callback, context } => DoneCallback::Call {
                callback: callback.clone_ref(py),
                context: context.clone_ref(py),
            },
            DoneCallback::Back(source) => DoneCallback::Back(source.clone_ref(py)),
            DoneCallback::Follow(follower) => DoneCallback::Follow(follower.clone_ref(py)),
        }
    }

    /// Whether both are the same callable.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (DoneCallback::Wake(one), DoneCallback::Wake(two)) => one.is(two),
            (
                DoneCallback::Call { callback: one, .. },
                DoneCallback::Call { callback: two, .. },
            ) => one.is(two),
            (DoneCallback::Follow(one), DoneCallback::Follow(two)) => one.is_same(two),
            _ => false,
        }
    }
}

/// The callbacks of a future: nearly always none or one, so those need no list.
#[derive(Default)]
pub enum Callbacks {
    /// Nobody waits.
    #[default]
    Empty,
    /// One waiter.
    One(DoneCallback),
    /// Several, in the order they came.
    Many(Vec<DoneCallback>),
}

impl Callbacks {
    /// Adds one at the end.
    #[inline]
    pub fn push(&mut self, callback: DoneCallback) {
        *self = match std::mem::take(self) {
            Callbacks::Empty => Callbacks::One(callback),
            Callbacks::One(first) => Callbacks::Many(vec![first, callback]),
            Callbacks::Many(mut list) => {
                list.push(callback);
                Callbacks::Many(list)
            }
        };
    }

    /// The callbacks in order.
    pub fn as_slice(&self) -> &[DoneCallback] {
        match self {
            Callbacks::Empty => &[],
            Callbacks::One(one) => std::slice::from_ref(one),
            Callbacks::Many(list) => list,
        }
    }
}

/// The mutable part of a `Future`.
#[derive(Default)]
pub struct FutureState {
    /// The loop it belongs to; `None` before `__init__`.
    pub home: Option<Home>,
    /// Pending, cancelled or finished.
    pub phase: Phase,
    /// `_asyncio_future_blocking`: yielded by `await`, not by a bare `yield`.
    pub blocking: bool,
    /// The exception was never looked at: to be reported when the future dies.
    pub log_traceback: bool,
    /// Who waits.
    pub callbacks: Callbacks,
    /// The outcome, if it is a result.
    pub result: Option<Py<PyAny>>,
    /// The outcome, if it is an exception.
    pub exception: Option<Py<PyAny>>,
    /// The exception's traceback when it was set: raising it again starts from there.
    pub exception_traceback: Option<Py<PyAny>>,
    /// The argument of `cancel`.
    pub cancel_message: Option<Py<PyAny>>,
    /// The `CancelledError` that ended a task, to be raised once more as it is.
    pub cancelled_error: Option<Py<PyAny>>,
    /// Where the future was made, in debug mode.
    pub source_traceback: Option<Py<PyAny>>,
}

impl FutureState {
    /// Pending, and of no loop yet.
    pub fn new() -> Self {
        FutureState::default()
    }

    /// Shows every Python object to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(home) = &self.home {
            home.traverse(visit)?;
        }
        for callback in self.callbacks.as_slice() {
            callback.traverse(visit)?;
        }
        for object in [
            &self.result,
            &self.exception,
            &self.exception_traceback,
            &self.cancel_message,
            &self.cancelled_error,
            &self.source_traceback,
        ] {
            visit.call(object)?;
        }
        Ok(())
    }
}
