//! Everything the loop can run: a closed list, and the shorter list of what it can run later.

use engine::poller::Readiness;
use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use crate::futures::delivery::Delivery;
use crate::handles::{Handle, TimerHandle};
use crate::tasks::Task;
use crate::tasks::followers::Ended;
use crate::tasks::timeouts::Timeout;
use crate::transports::Transport;

/// One entry of the ready queue.
pub enum Callback {
    /// A `call_soon` or a due timer: runs once.
    Call(Py<Handle>),
    /// A watcher that fired: its handle stays with the watcher.
    Fire(Py<Handle>),
    /// The next step of a native task.
    Step(Py<Task>),
    /// A transport begins: `connection_made`, then reading. Boxed, as the end is, so that an entry
    /// of the queue stays as small as the frequent kinds are.
    Begin(Box<Transport>),
    /// A transport ends: `connection_lost`, then its descriptor is closed.
    End(Box<Transport>),
    /// Another thread has the outcome of a future.
    Deliver(Box<Delivery>),
    /// A future is done that somebody follows.
    Follow(Box<Ended>),
    /// The time of an `async with timeout(...)` is over.
    Expire(Py<Timeout>),
    /// The kernel reported a descriptor of a transport, a listener or a child.
    Ready(Readiness),
}

impl Callback {
    /// Shows the entry to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Callback::Call(handle) => Handle::traverse_owned(handle, visit),
            Callback::Fire(_) | Callback::Ready(_) => Ok(()),
            Callback::Step(task) => visit.call(task),
            Callback::Begin(transport) | Callback::End(transport) => transport.traverse(visit),
            Callback::Deliver(delivery) => delivery.traverse(visit),
            Callback::Follow(ended) => ended.traverse(visit),
            Callback::Expire(timeout) => visit.call(timeout),
        }
    }
}

/// One entry of the timers.
pub enum Timer {
    /// `call_later` and `call_at`.
    Call(Py<TimerHandle>),
    /// A timeout, which needs neither a handle nor a context of its own.
    Expire(Py<Timeout>),
}

impl Timer {
    /// Shows the entry to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Timer::Call(timer) => TimerHandle::traverse_owned(timer, visit),
            Timer::Expire(timeout) => visit.call(timeout),
        }
    }

    /// It is due: what the loop is to run.
    pub fn become_due(self, py: Python<'_>) -> Callback {
        match self {
            Timer::Call(timer) => {
                timer.get().mark_due(py);
                Callback::Call(timer.into_bound(py).into_super().unbind())
            }
            Timer::Expire(timeout) => {
                timeout.get().mark_due(py);
                Callback::Expire(timeout)
            }
        }
    }

    /// A handle of it, for who looks at `_scheduled`.
    pub fn shown(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Timer::Call(timer) => Ok(timer.clone_ref(py).into_any()),
            Timer::Expire(timeout) => Timeout::handle(timeout.bind(py)),
        }
    }

    /// Another reference to the same entry.
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Timer::Call(timer) => Timer::Call(timer.clone_ref(py)),
            Timer::Expire(timeout) => Timer::Expire(timeout.clone_ref(py)),
        }
    }
}
