//! Everything the loop can run: a closed list.

use engine::poller::Readiness;
use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use crate::futures::delivery::Delivery;
use crate::handles::Handle;
use crate::tasks::Task;
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
        }
    }
}
