//! The compiled module `aioxide._aioxide`: a table of contents.

#![forbid(unsafe_code)]

use pyo3::prelude::*;

/// The native half of aioxide.
#[pymodule(gil_used = true)]
mod _aioxide {
    use pyo3::prelude::*;

    #[pymodule_export]
    use runtime::children::Child;
    #[pymodule_export]
    use runtime::event_loop::BaseEventLoop;
    #[pymodule_export]
    use runtime::executors::{job_queue::JobQueue, link::FutureLink};
    #[pymodule_export]
    use runtime::futures::Future;
    #[pymodule_export]
    use runtime::handles::{Handle, TimerHandle};
    #[pymodule_export]
    use runtime::locks::event::Event;
    #[pymodule_export]
    use runtime::locks::lock::Lock;
    #[pymodule_export]
    use runtime::locks::semaphore::{BoundedSemaphore, Semaphore};
    #[pymodule_export]
    use runtime::protocols::child::ChildPipe;
    #[pymodule_export]
    use runtime::protocols::stream_reader::StreamReaderProtocol;
    #[pymodule_export]
    use runtime::queues::{LifoQueue, PriorityQueue, Queue};
    #[pymodule_export]
    use runtime::streams::{reader::StreamReader, writer::StreamWriter};
    #[pymodule_export]
    use runtime::tasks::Task;
    #[pymodule_export]
    use runtime::tasks::gathering::gather;
    #[pymodule_export]
    use runtime::tasks::groups::BaseTaskGroup;
    #[pymodule_export]
    use runtime::tasks::timeouts::{Timeout, timeout, timeout_at};
    #[pymodule_export]
    use runtime::transports::datagram::DatagramTransport;
    #[pymodule_export]
    use runtime::transports::listener::Listener;
    #[pymodule_export]
    use runtime::transports::pipe::{PipeTransport, ReadPipeTransport, WritePipeTransport};
    #[pymodule_export]
    use runtime::transports::stream::StreamTransport;
    #[pymodule_export]
    use runtime::transports::tls::{TlsProtocol, TlsTransport};

    /// Called in the child after every fork: loops made before belong to the parent.
    #[pyfunction]
    fn _note_fork() {
        runtime::event_loop::state::note_fork();
    }

    /// Called when the interpreter exits: waits for look-ups that outlived their loop.
    #[pyfunction]
    fn _join_look_ups(py: Python<'_>) -> PyResult<()> {
        runtime::blocking::join_all(py)
    }

    /// Called before every fork, and when the interpreter exits: ends the watchdog's thread.
    #[pyfunction]
    fn _stop_watchdog(py: Python<'_>) {
        runtime::watchdog::stop(py);
    }

    /// Called in the parent after every fork: what `_stop_watchdog` ended may start again.
    #[pyfunction]
    fn _resume_watchdog() {
        runtime::watchdog::resume();
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("NOTHING", runtime::queues::nothing(module.py())?)?;
        runtime::prepare(module.py())
    }
}
