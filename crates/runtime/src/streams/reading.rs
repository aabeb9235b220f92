//! The waits of a `StreamReader`: `read`, `readline`, `readuntil`, `readexactly`, `async for`.
//!
//! What is there is taken at the first step, without a Future and without a turn. Whoever waits
//! takes nothing before it goes on, so a wait that is cancelled loses no byte; and it is woken only
//! when there is enough, so that the pieces of one large message cost one wake-up.

use std::cell::Cell;

use engine::read_buffer::{Found, ReadBuffer};
use pyo3::PyTraverseError;
use pyo3::exceptions::{PyRuntimeError, PyStopAsyncIteration, PyValueError};
use pyo3::gc::PyVisit;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;

use super::reader::StreamReader;
use super::separators::Separators;
use super::unread::{LARGE, ReaderState};
use crate::coroutines::Step;
use crate::cpython::imports::imports;
use crate::errors;
use crate::futures::Future;

/// One wait of one reader.
pub struct Reading {
    reader: Py<StreamReader>,
    wish: Wish,
}

/// What is waited for.
pub enum Wish {
    /// `read(n)`
    Some(usize),
    /// `read()`
    All,
    /// `readexactly(n)`
    Exactly(usize),
    /// `readline()`
    Line(Scanned),
    /// `__anext__()`
    Next(Scanned),
    /// `readuntil(...)`
    Until(Box<(Separators, Scanned)>),
    /// `_wait_for_data(name)`
    Data(Py<PyAny>),
    /// Nothing: the arguments were wrong, which is raised when it is awaited.
    Refused(Py<PyAny>),
}

/// Up to where no separator begins.
#[derive(Default)]
pub struct Scanned(Cell<usize>);

impl Wish {
    /// `readline()`
    pub fn line() -> Self {
        Wish::Line(Scanned::default())
    }

    /// `__anext__()`
    pub fn next() -> Self {
        Wish::Next(Scanned::default())
    }

    /// `readuntil(separators)`
    pub fn until(separators: Separators) -> Self {
        Wish::Until(Box::new((separators, Scanned::default())))
    }

    fn name(&self) -> &'static str {
        match self {
            Wish::Some(_) | Wish::All => "StreamReader.read",
            Wish::Exactly(_) => "StreamReader.readexactly",
            Wish::Line(_) => "StreamReader.readline",
            Wish::Next(_) => "StreamReader.__anext__",
            Wish::Until(_) | Wish::Refused(_) => "StreamReader.readuntil",
            Wish::Data(_) => "StreamReader._wait_for_data",
        }
    }

    /// What asyncio calls it where two tasks read at once.
    fn waits_as(&self, py: Python<'_>) -> PyResult<String> {
        Ok(match self {
            Wish::Some(_) | Wish::All => "read".to_owned(),
            Wish::Exactly(_) => "readexactly".to_owned(),
            Wish::Data(name) => name.bind(py).str()?.to_string_lossy().into_owned(),
            _ => "readuntil".to_owned(),
        })
    }

    /// Fewer bytes than these, unless they are the last, are of no use.
    fn least(&self) -> usize {
        match self {
            Wish::All => usize::MAX,
            Wish::Exactly(count) => *count,
            _ => 0,
        }
    }

    /// More bytes than these are left to whoever reads next.
    fn most(&self) -> usize {
        match self {
            Wish::Some(count) => *count,
            _ => usize::MAX,
        }
    }
}

impl Reading {
    /// A wait that has not begun.
    pub fn new(reader: Py<StreamReader>, wish: Wish) -> Self {
        Reading { reader, wish }
    }

    /// The qualified name of the coroutine.
    pub fn name(&self) -> &'static str {
        self.wish.name()
    }

    /// Takes what is there, or begins to wait.
    #[inline]
    pub fn begin(&self, py: Python<'_>) -> PyResult<Step> {
        let reader = self.reader.bind(py);
        match &self.wish {
            Wish::Refused(error) => return Err(PyErr::from_value(error.bind(py).clone())),
            Wish::Data(_) => return self.wait(reader),
            _ => {}
        }
        if let Some(error) = reader.get().failure(py) {
            return Err(PyErr::from_value(error.into_bound(py)));
        }
        self.take_or_wait(reader)
    }

    /// Goes on after a wait. Whoever began to wait after this one was woken goes on waiting.
    pub fn go_on(
        &self,
        py: Python<'_>,
        future: &Bound<'_, Future>,
        awaited: PyResult<Py<PyAny>>,
    ) -> PyResult<Step> {
        let reader = self.reader.bind(py);
        let waiter = reader.get().state.with(py, |state| {
            if state.waiter.as_ref().is_some_and(|waiter| !waiter.is(future)) {
                return None;
            }
            (state.wanted, state.at_most) = (0, usize::MAX);
            state.waiter.take()
        });
        drop(waiter);
        if let Err(error) = awaited {
            StreamReader::pause_if_full(reader)?;
            return Err(error);
        }
        match &self.wish {
            Wish::Data(_) => Ok(Step::Return(py.None())),
            _ => self.take_or_wait(reader),
        }
    }

    fn take_or_wait(&self, reader: &Bound<'_, StreamReader>) -> PyResult<Step> {
        reader.get().state.with(reader.py(), |state| state.settle(reader.py()))?;
        let taken = match &self.wish {
            Wish::Some(count) => read_some(reader, *count)?,
            Wish::All => read_all(reader)?,
            Wish::Exactly(count) => read_exactly(reader, *count)?,
            Wish::Line(scanned) => read_line(reader, scanned)?,
            Wish::Next(scanned) => read_line(reader, scanned)?.map(not_the_end).transpose()?,
            Wish::Until(until) => read_until(reader, &until.0, &until.1)?,
            Wish::Data(_) | Wish::Refused(_) => None,
        };
        match taken {
            Some(bytes) => Ok(Step::Return(bytes.into_any().unbind())),
            None => self.wait(reader),
        }
    }

    /// `_wait_for_data`
    fn wait(&self, reader: &Bound<'_, StreamReader>) -> PyResult<Step> {
        let py = reader.py();
        let (taken, paused, home) = reader.get().state.with(py, |state| {
            let home = state.home.as_ref().map(|home| home.clone_ref(py));
            (state.waiter.is_some(), state.paused, home)
        });
        if taken {
            return Err(PyRuntimeError::new_err(format!(
                "{}() called while another coroutine is already waiting for incoming data",
                self.wish.waits_as(py)?
            )));
        }
        if paused {
            // Otherwise nothing would ever come.
            StreamReader::resume(reader)?;
        }
        let home = home.ok_or_else(|| errors::uninitialized("StreamReader"))?;
        let future = Py::new(py, Future::pending(py, home)?)?;
        let (least, most) = (self.wish.least(), self.wish.most());
        let old = reader.get().state.with(py, |state| {
            (state.wanted, state.at_most) = (least, most);
            // Of `read()` nobody knows yet how much it will be.
            if least != usize::MAX && least.saturating_sub(state.len()) >= LARGE {
                state.grow(py)?;
            }
            Ok::<_, PyErr>(state.waiter.replace(future.clone_ref(py).into_any()))
        })?;
        drop(old);
        Ok(Step::Wait(future))
    }

    /// Shows the objects to the collector.
    pub fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.reader)?;
        match &self.wish {
            Wish::Data(object) | Wish::Refused(object) => visit.call(object),
            _ => Ok(()),
        }
    }
}

type Taken<'py> = Option<Bound<'py, PyBytes>>;

/// The first `count` bytes, or all if there are fewer; without a copy if they came as they are.
#[inline]
fn take<'py>(
    py: Python<'py>,
    buffer: &mut ReadBuffer<PyBackedBytes>,
    count: usize,
) -> Bound<'py, PyBytes> {
    let count = count.min(buffer.len());
    if count == buffer.len()
        && let Some(whole) = buffer.take_whole()
        && let Ok(bytes) = whole.into_pyobject(py)
    {
        return bytes;
    }
    let bytes = PyBytes::new(py, buffer.as_slice().get(..count).unwrap_or_default());
    buffer.advance(count);
    bytes
}

#[inline]
fn read_some<'py>(reader: &Bound<'py, StreamReader>, count: usize) -> PyResult<Taken<'py>> {
    let py = reader.py();
    if count == 0 {
        return Ok(Some(PyBytes::new(py, b"")));
    }
    let taken = reader.get().state.with(py, |state| {
        let ready = state.eof || !state.buffer.is_empty();
        ready.then(|| take(py, &mut state.buffer, count))
    });
    StreamReader::resume_if_drained(reader)?;
    Ok(taken)
}

fn read_all<'py>(reader: &Bound<'py, StreamReader>) -> PyResult<Taken<'py>> {
    let py = reader.py();
    if let Some(error) = reader.get().failure(py) {
        return Err(PyErr::from_value(error.into_bound(py)));
    }
    let taken = reader
        .get()
        .state
        .with(py, |state| state.eof.then(|| take(py, &mut state.buffer, usize::MAX)));
    if taken.is_some() {
        StreamReader::resume_if_drained(reader)?;
    }
    Ok(taken)
}

#[inline]
fn read_exactly<'py>(reader: &Bound<'py, StreamReader>, count: usize) -> PyResult<Taken<'py>> {
    let py = reader.py();
    let (enough, taken) = reader.get().state.with(py, |state| {
        let enough = state.buffer.len() >= count;
        let ends = enough || state.eof;
        (enough, ends.then(|| take(py, &mut state.buffer, count)))
    });
    match taken {
        Some(bytes) if enough => {
            StreamReader::resume_if_drained(reader)?;
            Ok(Some(bytes))
        }
        Some(partial) => Err(incomplete(&partial, Some(count))),
        None => Ok(None),
    }
}

/// What a search for a separator came to.
enum Search {
    Found(Found),
    /// There is none in these bytes, and they are more than the limit.
    TooLong(usize),
    /// There is none, and nothing more will come.
    Over,
    GoOn,
}

#[inline]
fn search(
    state: &ReaderState,
    (shortest, longest): (usize, usize),
    scanned: &Scanned,
    find: impl FnOnce(&ReadBuffer<PyBackedBytes>, usize) -> Option<Found>,
) -> Search {
    let length = state.buffer.len();
    let from = scanned.0.get().min(length);
    if length - from >= shortest {
        if let Some(found) = find(&state.buffer, from) {
            return Search::Found(found);
        }
        // The last bytes may be the beginning of a separator.
        let from = (length + 1).saturating_sub(longest);
        scanned.0.set(from);
        if from > state.limit {
            return Search::TooLong(from);
        }
    }
    if state.eof { Search::Over } else { Search::GoOn }
}

const TOO_LONG: &str = "Separator is not found, and chunk exceed the limit";
const FOUND_TOO_LATE: &str = "Separator is found, but chunk is longer than limit";

/// asyncio's message, and what to do.
fn overrun(message: &str, limit: usize) -> String {
    format!(
        "{message} of {limit} bytes: give open_connection(), start_server() or StreamReader() a \
         larger limit="
    )
}

/// A line, in the words of `StreamReader.readline`: one that is too long is dropped.
#[inline]
fn read_line<'py>(reader: &Bound<'py, StreamReader>, scanned: &Scanned) -> PyResult<Taken<'py>> {
    let py = reader.py();
    let taken = reader.get().state.with(py, |state| {
        let limit = state.limit;
        match search(state, (1, 1), scanned, |buffer, from| buffer.find(b"\n", from)) {
            Search::Found(found) if found.start <= limit => {
                Ok(Some(take(py, &mut state.buffer, found.end)))
            }
            Search::Found(found) => {
                state.buffer.advance(found.end);
                Err(overrun(FOUND_TOO_LATE, limit))
            }
            Search::TooLong(_) => {
                state.buffer.clear();
                Err(overrun(TOO_LONG, limit))
            }
            Search::Over => Ok(Some(take(py, &mut state.buffer, usize::MAX))),
            Search::GoOn => Ok(None),
        }
    });
    StreamReader::resume_if_drained(reader)?;
    taken.map_err(PyValueError::new_err)
}

fn not_the_end(line: Bound<'_, PyBytes>) -> PyResult<Bound<'_, PyBytes>> {
    if line.as_bytes().is_empty() { Err(PyStopAsyncIteration::new_err(())) } else { Ok(line) }
}

enum Until<'py> {
    Taken(Bound<'py, PyBytes>),
    Incomplete(Bound<'py, PyBytes>),
    Overrun(&'static str, usize, usize),
    GoOn,
}

fn read_until<'py>(
    reader: &Bound<'py, StreamReader>,
    separators: &Separators,
    scanned: &Scanned,
) -> PyResult<Taken<'py>> {
    let py = reader.py();
    let until = reader.get().state.with(py, |state| {
        let limit = state.limit;
        let find = |buffer: &ReadBuffer<PyBackedBytes>, from| separators.find(buffer, from);
        match search(state, separators.lengths(), scanned, find) {
            Search::Found(found) if found.start <= limit => {
                Until::Taken(take(py, &mut state.buffer, found.end))
            }
            Search::Found(found) => Until::Overrun(FOUND_TOO_LATE, limit, found.start),
            Search::TooLong(length) => Until::Overrun(TOO_LONG, limit, length),
            Search::Over => Until::Incomplete(take(py, &mut state.buffer, usize::MAX)),
            Search::GoOn => Until::GoOn,
        }
    });
    match until {
        Until::Taken(bytes) => {
            StreamReader::resume_if_drained(reader)?;
            Ok(Some(bytes))
        }
        Until::Incomplete(partial) => Err(incomplete(&partial, None)),
        Until::Overrun(message, limit, consumed) => {
            let class = imports(py).limit_overrun_error.bind(py);
            Err(PyErr::from_value(class.call1((overrun(message, limit), consumed))?))
        }
        Until::GoOn => Ok(None),
    }
}

/// `asyncio.IncompleteReadError(partial, expected)`
fn incomplete(partial: &Bound<'_, PyBytes>, expected: Option<usize>) -> PyErr {
    let py = partial.py();
    match imports(py).incomplete_read_error.bind(py).call1((partial, expected)) {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}
