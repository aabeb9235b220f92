//! Waiting in the kernel without the interpreter, so that other threads run meanwhile.

use std::io;
use std::time::Duration;

use engine::poller::{Events, Poller};
use pyo3::Python;

/// Lets the reports cross `Python::detach`, which runs its closure on this very thread.
struct Lent<'a>(&'a mut Events);

// SAFETY: `Events` is not `Send` only because a report's data may be a pointer; ours are tokens,
// and the closure that borrows them never leaves this thread. It holds no Python object.
unsafe impl Send for Lent<'_> {}

/// `poller.wait`, with the interpreter given up while it blocks.
pub fn wait(
    py: Python<'_>,
    poller: &Poller,
    events: &mut Events,
    timeout: Option<Duration>,
) -> io::Result<()> {
    let lent = Lent(events);
    py.detach(move || {
        let lent = lent;
        poller.wait(lent.0, timeout)
    })
}
