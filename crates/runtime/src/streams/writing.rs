//! The waits of a `StreamWriter`: `drain`, until the peer takes more, and `wait_closed`.

use std::cell::Cell;

use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use super::writer::StreamWriter;
use crate::coroutines::Step;
use crate::futures::{Future, completion};
use crate::protocols::stream_reader::StreamReaderProtocol;

/// One wait at the writing end of a stream.
pub enum Writing {
    /// `StreamWriter.drain`, and whether it gave the loop the turn of one who closes.
    Drain(Py<StreamWriter>, Cell<bool>),
    /// `StreamReaderProtocol._drain_helper`
    Resumed(Py<StreamReaderProtocol>),
    /// `StreamWriter.wait_closed`
    Closed(Py<StreamReaderProtocol>),
}

impl Writing {
    /// `StreamWriter.drain`
    pub fn drain(writer: Py<StreamWriter>) -> Self {
        Writing::Drain(writer, Cell::new(false))
    }

    /// The qualified name of the coroutine.
    pub fn name(&self) -> &'static str {
        match self {
            Writing::Drain(..) => "StreamWriter.drain",
            Writing::Resumed(_) => "StreamReaderProtocol._drain_helper",
            Writing::Closed(_) => "StreamWriter.wait_closed",
        }
    }

    /// Ends at once where there is nothing to wait for.
    #[inline]
    pub fn begin(&self, py: Python<'_>) -> PyResult<Step> {
        match self {
            Writing::Drain(writer, gave_a_turn) => {
                let writer = writer.bind(py);
                StreamWriter::raise_failure(writer)?;
                if StreamWriter::is_transport_closing(writer)? {
                    // `connection_lost` comes in a turn of the loop, and whoever writes and drains
                    // without end must be told of it.
                    gave_a_turn.set(true);
                    let home = writer.get().home(py)?;
                    let turn = Bound::new(py, Future::pending(py, home)?)?;
                    completion::set_result(&turn, py.None())?;
                    return Ok(Step::Wait(turn.unbind()));
                }
                writer.get().native_protocol(py)?.get().begin_drain(py)
            }
            Writing::Resumed(protocol) => protocol.get().begin_drain(py),
            Writing::Closed(protocol) => protocol.get().begin_close_wait(py),
        }
    }

    /// Goes on after a wait.
    pub fn go_on(
        &self,
        py: Python<'_>,
        future: &Bound<'_, Future>,
        awaited: PyResult<Py<PyAny>>,
    ) -> PyResult<Step> {
        match self {
            Writing::Drain(writer, gave_a_turn) => {
                if gave_a_turn.take() {
                    awaited?;
                    return writer.get().native_protocol(py)?.get().begin_drain(py);
                }
                writer.get().native_protocol(py)?.get().end_wait(py, future);
            }
            Writing::Resumed(protocol) | Writing::Closed(protocol) => {
                protocol.get().end_wait(py, future);
            }
        }
        awaited.map(|_| Step::Return(py.None()))
    }

    /// Shows the objects to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Writing::Drain(writer, _) => visit.call(writer),
            Writing::Resumed(protocol) | Writing::Closed(protocol) => visit.call(protocol),
        }
    }
}
